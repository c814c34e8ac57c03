#include "worker/backbone/linear.h"

#include <algorithm>

#include "common/base/check.h"

namespace coppice {

Projection::Projection(Backend& backend, const BackboneWeights& weights, const Module& module,
                       const TensorView& weight, const std::optional<TensorView>& bias, DType compute)
    : module_(module), weight_(backend.prepare_weight(weight, compute)) {
  CHECK(weight_->out() == module.out && weight_->in() == module.in);
  weights.release(weight);
  if (bias) bias_ = upload_vector(backend, *bias);
}

void Projection::forward(HookCalls& hooks, Matrix x, Matrix y) const {
  const auto product = [&](Matrix input) {
    if (hooks.decoding()) return hooks.backend().linear_decoding(*weight_, input, bias_.matrix, y);
    hooks.backend().linear(*weight_, input, bias_.matrix, y);
  };
  if (hooks.wants_input(module_)) {
    const Rows changed = copy_of(hooks.backend(), x);
    hooks.projection_input(module_, changed.matrix);
    product(changed.matrix);
  } else {
    product(x);
  }
  hooks.projection_output(module_, x, y);
}

// Output hooks go first: they know dy as it arrives, and leave in it what the frozen product is to see. Then
// the frozen product adds to dx. It always adds, also where no hook wrote, so that a row's bits do not depend
// on its company.
void Projection::backward(HookCalls& hooks, Matrix x, Matrix dy, Matrix dx, int64_t lower_rows) const {
  hooks.projection_output_backward(module_, x, dy, dx);
  if (hooks.wants_input(module_)) {
    backward_through_inputs(hooks, x, dy, dx, lower_rows);
  } else if (lower_rows > 0) {
    hooks.backend().linear_backward(*weight_, dy.row_range(0, lower_rows), dx.row_range(0, lower_rows), true);
  }
}

// Rows with a hook on the input have a dx of this projection alone, for the hook to see and change, even
// where nothing lower needs it; the others add to dx as always.
void Projection::backward_through_inputs(HookCalls& hooks, Matrix x, Matrix dy, Matrix dx,
                                         int64_t lower_rows) const {
  Backend& backend = hooks.backend();
  const Rows own = make_rows(backend, dy.rows, module_.in);
  const auto ranges = hooks.input_ranges(module_);
  int64_t row = 0;
  const auto plain_until = [&](int64_t end) {
    end = std::min(end, lower_rows);
    if (row < end)
      backend.linear_backward(*weight_, dy.row_range(row, end - row), dx.row_range(row, end - row), true);
  };
  for (const auto& [begin, end] : ranges) {
    plain_until(begin);
    const Matrix part = own.matrix.row_range(begin, end - begin);
    backend.fill(part, 0);
    backend.linear_backward(*weight_, dy.row_range(begin, end - begin), part, true);
    row = end;
  }
  plain_until(dy.rows);
  hooks.projection_input_backward(module_, x, own.matrix);
  std::vector<UnaryItem> adds;
  for (const auto& [begin, end] : ranges) {
    const int64_t count = std::min(end, lower_rows) - begin;
    if (count > 0) adds.push_back({own.matrix.row_range(begin, count), dx.row_range(begin, count)});
  }
  if (!adds.empty()) backend.add(adds);
}

Projection make_projection(Backend& backend, const BackboneWeights& weights, const Module& module,
                           DType compute) {
  return Projection(backend, weights, module, weights.projection(module.layer, module.slot),
                    weights.bias(module.layer, module.slot), compute);
}

}  // namespace coppice
