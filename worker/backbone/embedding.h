#pragma once
// The embedding: a row of the table, in the checkpoint's dtype, for each token id; where the head of this
// stage is the same matrix and holds its values unrounded, the rows are the head's. Then hooks: a method may
// add to the rows (projection_output with Slot::kEmbedding: x empty, token_ids given) and write virtual rows
// (token_rows). Thread: compute thread. Errors: kExhausted from the device.

#include <vector>

#include "worker/backbone/config.h"
#include "worker/backbone/weights.h"
#include "worker/hook_calls.h"
#include "worker/pack_rows.h"
#include "worker/rows.h"

namespace coppice {

class Embedding {
 public:
  // head: the weight that the table is tied to, which outlives this; null where there is none here.
  Embedding(Backend& backend, const BackboneWeights& weights, const Module& module, const FrozenWeight* head);

  size_t bytes() const { return buffer_.bytes(); }
  Rows forward(HookCalls& hooks, const PackRows& pack) const;  // [rows, hidden]
  // drows: of the rows whose backward reaches the embedding. Only hooks have anything to do: the table is
  // frozen.
  void backward(HookCalls& hooks, Rows drows) const;
  // One row of the table, for version 0 of an adapter.
  std::vector<float> row(Backend& backend, int32_t token) const;

 private:
  void gather(Backend& backend, Matrix token_ids, Matrix rows) const;

  Module module_;
  const FrozenWeight* head_;  // null where the table is here
  Buffer buffer_;
  Matrix table_;
};

}  // namespace coppice
