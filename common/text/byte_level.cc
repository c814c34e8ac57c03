#include "common/text/byte_level.h"

#include "common/text/unicode.h"

namespace coppice {

ByteAlphabet::ByteAlphabet() {
  bytes_.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    const char32_t c = printable ? char32_t(byte) : next++;
    append_char(texts_[size_t(byte)], c);
    bytes_[c] = int16_t(byte);
  }
}

std::optional<char> ByteAlphabet::byte_of(char32_t c) const {
  if (c >= bytes_.size() || bytes_[c] < 0) return std::nullopt;
  return static_cast<char>(bytes_[c]);
}

}  // namespace coppice
