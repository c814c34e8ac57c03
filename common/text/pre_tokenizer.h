#pragma once
// Cuts normalised text into the words that BPE then works on one by one: Split, ByteLevel, Metaspace, Digits,
// and sequences of them. Thread: const methods from any thread. Errors: kInvalid, kUnsupported, naming where
// and key.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/io/json.h"

namespace coppice {

// A text and its pieces, in order.
struct Pieces {
  struct Piece {
    size_t begin, end;   // bytes of text
    size_t first;        // how many leading bytes stem from the first character of the whole input
    int32_t token = -1;  // of an added token, which is cut no further; -1: text
  };
  std::string text;
  std::vector<Piece> list;

  std::string_view view(const Piece& piece) const {
    return std::string_view(text).substr(piece.begin, piece.end - piece.begin);
  }
};

class PreTokenizer {
 public:
  // Null for JSON null.
  static std::unique_ptr<PreTokenizer> from_json(const Json& json, const std::string& where);
  virtual ~PreTokenizer() = default;

  virtual void apply(Pieces& pieces) const = 0;
};

}  // namespace coppice
