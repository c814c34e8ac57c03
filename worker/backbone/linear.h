#pragma once
// A frozen projection with its hooks: y = f(W g(x) + b), where methods may put a g on the input and an f on
// the output. The backbone's weights get no gradient, so its backward is dx = g'(dy W) and what the hooks
// add. Thread: compute thread. Errors: kExhausted from the device; kInvalid from construction.

#include <memory>
#include <optional>

#include "worker/backbone/config.h"
#include "worker/backbone/weights.h"
#include "worker/hook_calls.h"
#include "worker/rows.h"

namespace coppice {

class Projection {
 public:
  // Packs the weight and releases its mapped pages.
  Projection(Backend& backend, const BackboneWeights& weights, const Module& module, const TensorView& weight,
             const std::optional<TensorView>& bias, DType compute);

  const Module& module() const { return module_; }
  const FrozenWeight& weight() const { return *weight_; }
  size_t bytes() const { return weight_->bytes() + bias_.buffer.bytes(); }

  // x [rows, in], F32 or BF16 as Backend::linear takes it, stays as it is, unless it is spare: hooks may
  // change that one in place. y [rows, out], F32 or BF16 as that takes it,
  // is rounded when all hooks are done.
  void forward(HookCalls& hooks, Matrix x, Matrix y, bool spare = false) const;

  // Whether backward reads x.
  bool backward_needs_input(const HookCalls& hooks) const {
    return hooks.wants_input(module_) || hooks.wants_output(module_);
  }
  // Whether backward changes dy.
  bool backward_changes_dy(const HookCalls& hooks) const { return hooks.changes_dy(module_); }
  // dy [rows, out], F32 where it is changed in place by hooks, else as x. dx [first rows of those, in]:
  // overwritten, F32 or BF16 as y above, or added to, F32; only the rows that go lower, empty where none
  // does.
  void backward(HookCalls& hooks, Matrix x, Matrix dy, Matrix dx, bool accumulate) const;

 private:
  void backward_through_inputs(HookCalls& hooks, Matrix x, Matrix dy, Matrix dx, bool accumulate) const;

  Module module_;
  std::unique_ptr<FrozenWeight> weight_;
  Rows bias_;
};

// One of a block's.
Projection make_projection(Backend& backend, const BackboneWeights& weights, const Module& module,
                           DType compute);

}  // namespace coppice
