#pragma once
// Which shard owns which tensor of an adapter: spread by size, the same on every machine. Thread: any.

#include <vector>

#include "common/tensor/tensor.h"

namespace coppice {

// For each tensor of a manifest its shard in [0, shards): the largest first, each to the shard that has
// least.
std::vector<int> place_tensors(const std::vector<Shape>& shapes, int shards);

}  // namespace coppice
