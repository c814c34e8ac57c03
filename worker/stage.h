#pragma once
// A stage: a contiguous range of backbone layers on one device, with the embedding where it is the first and
// the head and loss where it is the last. It holds the packed frozen weights, the adapters' tensors that live
// in its layers (one version a job), gradient slots of steps that have begun, and what packs in flight keep
// for their backward. It knows nothing of messages, schedules or optimizers.
//
// The life of a pack: forward once, on the last stage loss, then (where any segment trains) backward once;
// finish frees it. Packs go through each direction in the order of their forwards. Gradients of a job add up
// over packs until take_gradients.
//
// Thread: compute thread. Errors: kExhausted from the device; kInvalid, kUnsupported from construction,
// naming the file.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "worker/backbone/config.h"
#include "worker/pack.h"
#include "worker/peft/method.h"
#include "worker/rows.h"

namespace coppice {

struct StageOptions {
  int64_t first_layer = 0;  // blocks [first_layer, end_layer)
  int64_t end_layer = 0;
  DType compute = DType::kF32;
  std::function<void()> between_layers = [] {};  // called after every block: others need the thread too

  bool holds_embedding() const { return first_layer == 0; }
  bool holds_head(const BackboneConfig& config) const { return end_layer == config.layers; }
};

class Stage {
 public:
  // folder: of the backbone. Weights are packed here and the mapped pages released.
  Stage(Backend& backend, const BackboneConfig& config, const std::string& folder,
        const StageOptions& options);
  ~Stage();

  const BackboneConfig& config() const;
  const StageOptions& options() const;
  size_t weight_bytes() const;
  bool lives_here(const TensorSpec& spec) const;

  // --- adapters
  // Version 0 of the tensors that live here.
  std::vector<NumberedTensor> initial_tensors(const MethodConfig& method, uint64_t seed) const;
  // Makes (or replaces) a job's adapter at a version; tensors: all that live here. training: its packs may
  // have a backward.
  void set_adapter(const std::string& job, std::shared_ptr<const MethodConfig> method, uint64_t seed,
                   int64_t version, std::span<const NumberedView> tensors, bool training);
  // Zero where no backward has been here since; empty where nothing of the job's lives here. Frees the slots.
  std::vector<NumberedTensor> take_gradients(const std::string& job);
  void drop_adapter(const std::string& job);
  size_t adapter_bytes() const;

  // --- packs. A segment of a job that has no adapter here goes through the bare backbone.
  Rows forward(const Pack& pack, const PackTokens& tokens);  // first stage: rows after the last block here
  Rows forward(const Pack& pack, Rows rows);                 // others
  // Last stage: the loss of every segment from the rows of the last forward, and the rows of the backward
  // (empty where none). The final norm and the head go over the rows with targets alone.
  std::vector<SegmentLoss> loss(const Pack& pack, const PackTargets& targets, const Rows& rows,
                                bool log_probabilities, Rows* drows);
  // drows: of pack.backward_rows(end_layer - 1 of this stage) rows. Returns those for the stage below; empty
  // where none of the pack's segments reaches there.
  Rows backward(const Pack& pack, Rows drows);
  // Frees what is kept of the pack, also of one whose forward or backward threw; nothing where it is not
  // known.
  void finish(const Pack& pack);

  // --- decoding, on a stage that holds the whole backbone: keys and values of what went before are cached.
  class Decoder;
  // job: whose adapter takes part; empty: none. max_positions: capacity of the cache.
  std::unique_ptr<Decoder> decoder(const std::string& job, int64_t max_positions);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One sequence that grows. Thread: compute thread.
class Stage::Decoder {
 public:
  virtual ~Decoder() = default;
  // Appends tokens (the prompt, or the one sampled last) and returns the logits [vocabulary] after the last
  // of them.
  virtual std::vector<float> append(std::span<const int32_t> tokens) = 0;
};

}  // namespace coppice
