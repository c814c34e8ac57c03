#pragma once
// From the texts of tokens back to a text: ByteLevel, ByteFallback, Metaspace, Replace, Strip, Fuse, and
// sequences of them. Thread: const methods from any thread. Errors: kInvalid, kUnsupported, naming where and
// key.

#include <memory>
#include <string>
#include <vector>

#include "common/io/json.h"

namespace coppice {

class Decoder {
 public:
  // Null for JSON null.
  static std::unique_ptr<Decoder> from_json(const Json& json, const std::string& where);
  virtual ~Decoder() = default;

  // Changes the tokens' texts; joined, they are the decoded text.
  virtual void apply(std::vector<std::string>& tokens) const = 0;
};

}  // namespace coppice
