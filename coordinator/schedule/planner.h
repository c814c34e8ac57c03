#pragma once
// Which stage holds which layers: contiguous ranges whose largest cost is as small as can be, or as given by
// hand. The head and its loss count with the last layer. Thread: any. Errors: kInvalid for more stages than
// layers, and for a split by hand that does not make the backbone.

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/tensor/dtype.h"
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

// Of a pack's forward and backward: in seconds as measured (measure_costs.h), or in any unit.
struct LayerCosts {
  double block_seconds = 1, head_seconds = 0;
};

std::vector<LayerRange> plan_stages(const BackboneConfig& config, int64_t stages, const LayerCosts& costs);
// By the operations of block and head, where nothing was measured.
std::vector<LayerRange> plan_stages(const BackboneConfig& config, int64_t stages);

// "4,5,3": so many layers a stage, as `--split` takes it.
std::vector<LayerRange> parse_split(std::string_view split, const BackboneConfig& config);

// Rows of a full pack where none are asked for, with so many threads at work on it at once: enough to keep
// each of them busy for a while, since what a pack costs beside its rows (every weight is read, and turned
// for the backward) does not grow with them; and no more, since what is kept of it for its backward does. In
// bfloat16 twice as many at least: a row takes half the time and keeps half the bytes.
int64_t default_pack_rows(const BackboneConfig& config, int64_t threads, DType compute);

}  // namespace coppice
