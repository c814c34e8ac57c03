#include "worker/backbone/layers.h"

#include "common/base/check.h"

namespace coppice {

Layers::Layers(Backend& backend, const BackboneConfig& config, const std::string& folder, int64_t first,
               int64_t end, DType compute) {
  CHECK(0 <= first && first < end && end <= config.layers);
  const BackboneWeights weights(folder, config);
  const std::vector<Module> modules = backbone_modules(config);
  const auto of_layer = [&](int64_t layer) {
    std::vector<Module> found;
    for (const Module& module : modules)
      if (module.layer == layer) found.push_back(module);
    return found;
  };
  blocks.reserve(size_t(end - first));
  for (int64_t layer = first; layer < end; ++layer)
    blocks.emplace_back(backend, config, weights, layer, of_layer(layer), compute);
  if (end == config.layers) head.emplace(backend, config, weights, modules.back(), compute);
  if (first == 0) {
    const bool tied = head && config.tied_embeddings;
    embedding.emplace(backend, weights, modules.front(), tied ? &head->weight() : nullptr);
  }
}

size_t Layers::bytes() const {
  size_t bytes = 0;
  if (embedding) bytes += embedding->bytes();
  for (const Block& block : blocks) bytes += block.bytes();
  if (head) bytes += head->bytes();
  return bytes;
}

}  // namespace coppice
