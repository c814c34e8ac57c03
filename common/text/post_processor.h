#pragma once
// What is put around the ids of a text: TemplateProcessing (BOS and the like), ByteLevel (which moves offsets
// only, and those are not kept here), and a Sequence of them. Thread: const methods from any thread. Errors:
// kInvalid, kUnsupported.

#include <cstdint>
#include <string>
#include <vector>

#include "common/io/json.h"

namespace coppice {

class PostProcessor {
 public:
  PostProcessor();  // adds nothing
  // Null adds nothing.
  static PostProcessor from_json(const Json& json, const std::string& where);

  // special: with the special tokens.
  void apply(std::vector<int32_t>& ids, bool special) const;

 private:
  struct Item {
    bool text;  // the text's ids, else these
    std::vector<int32_t> ids;
  };
  std::vector<Item> items_;
};

}  // namespace coppice
