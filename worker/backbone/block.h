#pragma once
// One frozen transformer block over the ragged rows of a pack, with the hooks of the adapters that take part:
//
//   mid = x + s(attention(norm(x)))          s: sub-layer hooks
//   y = mid + s(mlp(norm(mid)))
//
// Forward and backward for the backbone's input alone: weights get no gradient. The rows of a backward are
// the first so many of the pack, and of those only the first lower_rows get a gradient of x; the others end
// here, after this layer's hooks have had theirs. Kept is what is dear to compute again: x, q, k, v,
// attention's output, mid, gate and up; norms and the gated product are computed again. Row-wise operators
// give a row equal bits in any company, so a backward over fewer rows is exact.
//
// Thread: compute thread. Errors: kExhausted from the device.

#include <vector>

#include "worker/backbone/attention.h"
#include "worker/backbone/mlp.h"
#include "worker/backbone/norm.h"
#include "worker/backbone/run.h"

namespace coppice {

// Of the rows that need a backward at this layer.
struct BlockKept {
  Rows x;
  bool input_only = false;  // checkpointing: the rest is computed again from x
  Rows x_inverse, mid, mid_inverse;
  AttentionKept attention;
  MlpKept mlp;
  HookStore hooks;
};

class Block {
 public:
  // modules: of the layer, in the order of Slot.
  Block(Backend& backend, const BackboneConfig& config, const BackboneWeights& weights, int64_t layer,
        const std::vector<Module>& modules, DType compute);

  size_t bytes() const { return attention_.bytes() + mlp_.bytes() + input_norm_.bytes() + mlp_norm_.bytes(); }

  // x, result: [run.rows, hidden]. kept: null where no row needs a backward here, else filled for the first
  // kept_rows rows; with kept->input_only only x is.
  Rows forward(BlockRun& run, Rows x, BlockKept* kept, int64_t kept_rows) const;
  // dy [run.rows, hidden]; the result has lower_rows rows and is empty for none. kept: not input_only.
  Rows backward(BlockRun& run, BlockKept& kept, Rows dy, int64_t lower_rows) const;

 private:
  Rows backward_mlp(BlockRun& run, BlockKept& kept, Rows dy) const;

  Norm input_norm_, mlp_norm_;
  Attention attention_;
  Mlp mlp_;
};

}  // namespace coppice
