#pragma once
// A small random backbone in a temporary folder, written as Hugging Face writes one.

#include <string>

#include "tests/unit/common/io/testing.h"
#include "worker/backbone/config.h"

namespace coppice {

struct TinyShape {
  std::string family = "llama";
  int64_t hidden = 16, intermediate = 24, layers = 4, heads = 4, kv_heads = 2, head_dim = 6, vocabulary = 37;
  bool tied = false;
  bool biases = false;           // of every projection (Llama)
  int64_t window = 0;            // sliding window (Mistral)
  std::string rope = "default";  // or "dynamic", which grows from 8 positions
};

class TinyBackbone {
 public:
  explicit TinyBackbone(const TinyShape& shape = {});

  const std::string& folder() const { return folder_.path(); }
  const BackboneConfig& config() const { return config_; }

 private:
  void write_config(const TinyShape& shape);
  void write_weights(const TinyShape& shape);

  TestFolder folder_;
  BackboneConfig config_;
};

}  // namespace coppice
