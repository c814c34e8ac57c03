#pragma once
// What a stage remembers of a pack between its forward and its end: the pack as it lies on the device, and
// what each block keeps for the backward. Packs go through each direction in the order of their forwards.
// Thread: compute thread.

#include <deque>
#include <memory>
#include <vector>

#include "worker/backbone/block.h"
#include "worker/pack_rows.h"

namespace coppice {

struct PackActivations {
  std::unique_ptr<PackRows> rows;
  HookStore embedding_hooks;
  std::vector<BlockKept> blocks;  // of the stage's layers
  bool backward_done = false;
};

}  // namespace coppice
