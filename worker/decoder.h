#pragma once
// Token-by-token decoding over the frozen layers of a whole backbone: one sequence, its keys and values
// cached, the hooks of one adapter. Virtual rows and learned prefix pairs stand before the first tokens;
// positions go on from them. Thread: compute thread. Errors: kInvalid where max_positions is exceeded;
// kExhausted from the device.

#include <string>
#include <vector>

#include "worker/backbone/layers.h"
#include "worker/kv_cache.h"
#include "worker/stage.h"

namespace coppice {

class LayersDecoder final : public Stage::Decoder {
 public:
  LayersDecoder(Backend& backend, const BackboneConfig& config, DType compute, const Layers& layers,
                const AdapterCache& adapters, RotaryTable& rotary, const std::string& job,
                int64_t max_positions);

  std::vector<float> append(std::span<const int32_t> tokens) override;

 private:
  Backend& backend_;
  const BackboneConfig& config_;
  DType compute_;
  const Layers& layers_;
  const AdapterCache& adapters_;
  RotaryTable& rotary_;
  std::string job_;
  int64_t max_positions_;
  int64_t rows_ = 0;  // so far, virtual ones included
  std::vector<KvLayer> cache_;
};

}  // namespace coppice
