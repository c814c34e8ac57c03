#pragma once
// What a block works with beside its rows, for one pass over one pack: who takes part, where the sequences
// are, and, in decoding, the keys and values of what went before. Plain references, alive for the pass.
// Thread: compute thread.

#include "worker/hook_calls.h"
#include "worker/kv_cache.h"
#include "worker/pack_rows.h"

namespace coppice {

struct BlockRun {
  Backend& backend;
  DType compute;
  const PackRows& pack;
  HookCalls& hooks;  // of this layer and these rows
  int64_t rows =
      0;  // of the pack, the first so many: all of them forward, in a backward those that reach this layer
  KvLayer* cache = nullptr;  // decoding: the pack is one sequence that goes on
};

}  // namespace coppice
