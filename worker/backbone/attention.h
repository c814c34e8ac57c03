#pragma once
// The attention of a block, from the normalised rows to o_proj's output: projections, the optional norm of
// each head of q and k (Qwen3), rotary positions, causal attention of each sequence with learned pairs before
// its own keys, o_proj. Thread: compute thread. Errors: kExhausted from the device.

#include <optional>
#include <vector>

#include "worker/backbone/linear.h"
#include "worker/backbone/norm.h"
#include "worker/backbone/run.h"

namespace coppice {

// What the backward needs, for its rows.
struct AttentionKept {
  // After rotary, in the dtype of products. Where there is a norm of heads, F32 and before that norm: norm
  // and rotary are computed again.
  Rows q, k;
  Rows q_inverse, k_inverse;
  Rows v, out, log_sum;
};

class Attention {
 public:
  Attention(Backend& backend, const BackboneConfig& config, const BackboneWeights& weights, int64_t layer,
            const std::vector<Module>& modules, DType compute);

  size_t bytes() const;
  // x, y [rows, hidden]. kept: null where no backward follows, else filled for the first kept_rows rows.
  void forward(BlockRun& run, Matrix x, Matrix y, AttentionKept* kept, int64_t kept_rows) const;
  // Whether backward reads x; whether it changes dy.
  bool backward_needs_input(const HookCalls& hooks) const;
  bool backward_changes_dy(const HookCalls& hooks) const { return output_.backward_changes_dy(hooks); }
  // dx: overwritten; only the rows that go lower, empty where none does.
  void backward(BlockRun& run, AttentionKept kept, Matrix x, Matrix dy, Matrix dx) const;

 private:
  // One item for each sequence among the run's rows.
  std::vector<AttentionItem> items(const BlockRun& run, Matrix q, Matrix k, Matrix v, Matrix out,
                                   Matrix log_sum) const;
  void append(const BlockRun& run, std::vector<AttentionItem>& items) const;
  Method::KeysValues prefix(const BlockRun& run, size_t segment) const;
  // x, F32, turned: in place, or to new rows of another dtype.
  Rows rotate(const BlockRun& run, Rows x, bool transposed, DType dtype) const;
  Rows normalize_heads(const BlockRun& run, const Norm& norm, const Rows& raw, Rows& inverse) const;
  Rows normalize_heads_backward(const BlockRun& run, const Norm& norm, const Rows& raw, const Rows& inverse,
                                const Rows& dy) const;

  int64_t layer_;
  AttentionShape shape_;
  int64_t window_;
  Projection query_, key_, value_, output_;
  std::optional<Norm> query_norm_, key_norm_;
};

}  // namespace coppice
