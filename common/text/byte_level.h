#pragma once
// The alphabet of byte-level tokenizers: each byte is written as one printable character, so that any bytes
// make a text of vocabulary characters. Printable Latin-1 bytes stand for themselves, the others for U+0100
// onwards, in order. Thread: any.

#include <array>
#include <optional>
#include <string>

namespace coppice {

class ByteAlphabet {
 public:
  ByteAlphabet();
  // The character of a byte, as UTF-8.
  const std::string& text_of(char byte) const { return texts_[static_cast<unsigned char>(byte)]; }
  std::optional<char> byte_of(char32_t c) const;

 private:
  std::array<std::string, 256> texts_;
  std::array<int16_t, 0x200> bytes_;  // by character; -1: none
};

}  // namespace coppice
