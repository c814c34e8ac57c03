#pragma once
// A pack as a stage works on it: where its sequences are, which adapters take part, and what lies on the
// device beside the hidden rows (token ids, ids of rows for dropout, cosines and sines). Made once a pack and
// stage, shared by forward, loss and backward. Thread: compute thread. Errors: kExhausted from the device; a
// pack that breaks its own rules is a CHECK.

#include <memory>
#include <vector>

#include "worker/adapter_cache.h"
#include "worker/backbone/rotary.h"
#include "worker/hook_calls.h"
#include "worker/pack.h"
#include "worker/rows.h"

namespace coppice {

struct RowsOfSequence {
  int64_t row = 0, rows = 0;
  size_t segment = 0;
};

class PackRows {
 public:
  // tokens: null on stages without the embedding.
  PackRows(Backend& backend, const BackboneConfig& config, const Pack& pack, const PackTokens* tokens,
           const AdapterCache& adapters, RotaryTable& rotary);
  PackRows(const PackRows&) = delete;  // uses point into it
  PackRows& operator=(const PackRows&) = delete;

  const Pack& pack() const { return pack_; }
  const PackUses& uses() const { return uses_; }
  const std::vector<RowsOfSequence>& sequences() const { return sequences_; }
  // Of a segment; null where none takes part.
  const CachedAdapter* adapter(size_t segment) const { return adapters_[segment].get(); }
  Matrix token_ids() const { return token_ids_.matrix(pack_.rows, 1, DType::kI32); }
  Matrix cosines() const { return cosines_.matrix; }
  Matrix sines() const { return sines_.matrix; }
  // Sequence in the step and row in the sequence, two for each row of the pack.
  const std::vector<int32_t>& row_ids() const { return host_row_ids_; }
  // Before the first gradient of the pack here, for each job that has one: as CachedAdapter::follow says.
  void follow(Backend& backend);

 private:
  void check() const;
  void list_rows(Backend& backend, RotaryTable& rotary, int64_t head_dim);
  void bind(const AdapterCache& adapters);

  const Pack pack_;
  std::vector<RowsOfSequence> sequences_;
  std::vector<std::shared_ptr<CachedAdapter>> adapters_;  // by segment
  PackUses uses_;
  bool followed_ = false;
  std::vector<int32_t> host_row_ids_;
  Buffer row_ids_, token_ids_;
  Rows cosines_, sines_;
};

}  // namespace coppice
