#pragma once
// A whole backbone on one device, with an adapter where one is named: what `score` and `generate` work with.
// No coordinator, no ranks, no store. Thread: main. Errors: those of the parts, naming the file.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/tokenizer.h"
#include "coordinator/device.h"
#include "worker/backbone/config.h"
#include "worker/peft/method.h"
#include "worker/stage.h"

namespace coppice {

struct InferenceOptions {
  std::string backbone;                // folder
  std::optional<std::string> adapter;  // folder in HF form
  ComputeOptions compute;
};

// Everything small is read and checked before the weights are packed.
class Inference {
 public:
  explicit Inference(const InferenceOptions& options);

  const BackboneConfig& config() const { return config_; }
  const Tokenizer* tokenizer() const {
    return tokenizer_ ? &*tokenizer_ : nullptr;
  }  // null where the folder has none
  const std::string& job() const {
    return job_;
  }  // under which the adapter takes part; empty: the bare backbone
  int64_t virtual_rows() const { return method_ ? method_->virtual_rows() : 0; }
  int64_t prefix_rows() const { return method_ ? method_->prefix_rows() : 0; }
  // Throws kInvalid where tokens (of what) and what the adapter adds need more positions than the backbone
  // was made for. Dynamic rotary embeddings are made to go beyond.
  void check_length(int64_t tokens, const std::string& what) const;
  // Packs the weights; slow, once.
  void load();
  Stage& stage() { return *stage_; }

 private:
  std::string folder_;
  BackboneConfig config_;
  std::optional<Tokenizer> tokenizer_;
  std::string job_;
  std::shared_ptr<const MethodConfig> method_;
  std::vector<Tensor> tensors_;
  Device device_;
  std::unique_ptr<Stage> stage_;
};

// Writes to stdout at once; throws kFailed where it takes no more.
void print(std::string_view text);

}  // namespace coppice
