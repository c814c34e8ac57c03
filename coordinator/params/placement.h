#pragma once
// Which shard owns which tensor of an adapter: spread by size, the same on every machine. Thread: any.

#include <vector>

#include "common/tensor/tensor.h"

namespace coppice {

// For each tensor of a manifest its shard in [0, shards), shards >= 1: the largest first (of equals the one
// of the lowest number), each to the shard that has least (of equals the lowest).
std::vector<int> place_tensors(const std::vector<Shape>& shapes, int shards);

}  // namespace coppice
