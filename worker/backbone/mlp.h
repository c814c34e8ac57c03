#pragma once
// The gated MLP of a block: down(f(gate(x)) * up(x)). Thread: compute thread. Errors: kExhausted from the
// device.

#include <vector>

#include "worker/backbone/linear.h"
#include "worker/backbone/run.h"

namespace coppice {

// What the backward needs, for its rows; the product is computed again from them.
struct MlpKept {
  Rows gate, up;
};

class Mlp {
 public:
  // modules: of the layer, in the order of Slot.
  Mlp(Backend& backend, const BackboneConfig& config, const BackboneWeights& weights,
      const std::vector<Module>& modules, DType compute);

  size_t bytes() const { return gate_.bytes() + up_.bytes() + down_.bytes(); }
  // x, y [rows, hidden]. kept: null where no backward follows, else filled for the first kept_rows rows.
  void forward(BlockRun& run, Matrix x, Matrix y, MlpKept* kept, int64_t kept_rows) const;
  // Whether backward reads x; whether it changes dy.
  bool backward_needs_input(const HookCalls& hooks) const {
    return gate_.backward_needs_input(hooks) || up_.backward_needs_input(hooks);
  }
  bool backward_changes_dy(const HookCalls& hooks) const { return down_.backward_changes_dy(hooks); }
  // dx [rows, hidden]: overwritten.
  void backward(BlockRun& run, MlpKept kept, Matrix x, Matrix dy, Matrix dx) const;

 private:
  Activation activation_;
  Projection gate_, up_, down_;
};

}  // namespace coppice
