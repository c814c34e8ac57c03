#pragma once
// Which stage holds which layers: contiguous ranges whose largest cost is as small as can be. A block costs
// one; the head and its loss cost what their operations say, in blocks. Thread: any. Errors: kInvalid for
// more stages than layers.

#include <cstdint>
#include <vector>

#include "worker/backbone/config.h"

namespace coppice {

struct LayerRange {
  int64_t first = 0, end = 0;

  // layer: of a TensorSpec; the embedding (-1) lives with the first block, the head (layers) with the last.
  bool holds(int64_t layer, int64_t layers) const {
    if (layer < 0) return first == 0;
    return layer >= first && (layer < end || (layer == layers && end == layers));
  }
};

std::vector<LayerRange> plan_stages(const BackboneConfig& config, int64_t stages);

}  // namespace coppice
