#include "worker/backbone/linear.h"

#include <algorithm>

#include "common/base/check.h"

namespace coppice {
namespace {

// What linear_backward() does beside W, by itself: where the product is made in parts.
void add_low_rank(HookCalls& hooks, std::span<const LowRankItem> items, Matrix dy, Matrix dx) {
  std::vector<MatmulItem> first, second;
  for (const LowRankItem& item : items) {
    const auto rows_of = [&](Matrix rows) { return rows.row_range(item.row, item.inner.rows); };
    first.push_back({.a = rows_of(dy), .b = item.up, .c = item.inner, .alpha = item.scale});
    second.push_back({.a = item.inner, .b = item.down, .c = rows_of(dx), .accumulate = true});
  }
  if (items.empty()) return;
  hooks.backend().grouped_matmul(first, hooks.compute());
  hooks.backend().grouped_matmul(second, hooks.compute());
}

// What compute(F32 rows) writes, to rows of BF16.
template <typename Compute>
void round_rows(Backend& backend, Matrix to, const Compute& compute) {
  const Rows exact = make_rows(backend, to.rows, to.cols);
  compute(exact.matrix);
  const UnaryItem rounding{exact.matrix, to};
  backend.copy({&rounding, 1});
}

}  // namespace

Projection::Projection(Backend& backend, const BackboneWeights& weights, const Module& module,
                       const TensorView& weight, const std::optional<TensorView>& bias, DType compute)
    : module_(module), weight_(backend.prepare_weight(weight, compute)) {
  CHECK(weight_->out() == module.out && weight_->in() == module.in);
  weights.release(weight);
  if (bias) bias_ = upload_vector(backend, *bias);
}

void Projection::forward(HookCalls& hooks, Matrix x, Matrix y, bool spare) const {
  if (y.dtype != DType::kF32 && hooks.changes_output(module_)) {
    return round_rows(hooks.backend(), y, [&](Matrix exact) { forward(hooks, x, exact, spare); });
  }
  const std::vector<LowRankItem> low_rank = hooks.low_rank(module_);
  const auto product = [&](Matrix input) {
    hooks.backend().linear(*weight_, input, bias_.matrix, y, low_rank);
  };
  if (hooks.wants_input(module_)) {
    // Who changes its input and knows it at the output as well is to find it there as it was.
    const bool in_place = spare && x.dtype == DType::kF32 && !hooks.wants_both(module_);
    const Rows copy = in_place ? Rows{} : f32_copy_of(hooks.backend(), x);
    const Matrix changed = in_place ? x : copy.matrix;
    hooks.projection_input(module_, changed);
    product(changed);
  } else {
    product(x);
  }
  hooks.projection_output(module_, x, y);
}

// Hooks that change dy go first. Then the frozen product, for all rows, and only then what hooks add beside
// it: so where dx is new, the product writes it and nobody fills it with zeros before.
void Projection::backward(HookCalls& hooks, Matrix x, Matrix dy, Matrix dx, bool accumulate) const {
  if (dx.dtype != DType::kF32 && (hooks.wants_input(module_) || hooks.changes_output(module_))) {
    CHECK(!accumulate);
    return round_rows(hooks.backend(), dx, [&](Matrix exact) { backward(hooks, x, dy, exact, false); });
  }
  hooks.projection_output_backward(module_, x, dy);
  const std::vector<LowRankItem> low_rank = hooks.low_rank_backward(module_, dx.rows);
  if (hooks.wants_input(module_)) {
    backward_through_inputs(hooks, x, dy, dx, accumulate);
    add_low_rank(hooks, low_rank, dy, dx);
  } else if (dx.rows > 0) {
    hooks.backend().linear_backward(*weight_, dy.row_range(0, dx.rows), dx, accumulate, low_rank);
  }
  hooks.projection_branch_backward(module_, x, dy, dx);
}

// Rows with a hook on the input have a dx of this projection alone, for the hook to see and change, even
// where nothing lower needs it; the others go to dx as always. Where dx is new and has all rows it is just
// that itself.
void Projection::backward_through_inputs(HookCalls& hooks, Matrix x, Matrix dy, Matrix dx,
                                         bool accumulate) const {
  Backend& backend = hooks.backend();
  if (!accumulate && dx.rows == dy.rows) {
    backend.linear_backward(*weight_, dy, dx, false);
    return hooks.projection_input_backward(module_, x, dx);
  }
  const Rows own = make_rows(backend, dy.rows, module_.in);
  const auto ranges = hooks.input_ranges(module_);
  int64_t row = 0;
  const auto plain_until = [&](int64_t end) {
    end = std::min(end, dx.rows);
    if (row < end)
      backend.linear_backward(*weight_, dy.row_range(row, end - row), dx.row_range(row, end - row),
                              accumulate);
  };
  for (const auto& [begin, end] : ranges) {
    plain_until(begin);
    backend.linear_backward(*weight_, dy.row_range(begin, end - begin),
                            own.matrix.row_range(begin, end - begin), false);
    row = end;
  }
  plain_until(dy.rows);
  hooks.projection_input_backward(module_, x, own.matrix);
  std::vector<UnaryItem> parts;
  for (const auto& [begin, end] : ranges) {
    const int64_t count = std::min(end, dx.rows) - begin;
    if (count > 0) parts.push_back({own.matrix.row_range(begin, count), dx.row_range(begin, count)});
  }
  if (parts.empty()) return;
  accumulate ? backend.add(parts) : backend.copy(parts);
}

Projection make_projection(Backend& backend, const BackboneWeights& weights, const Module& module,
                           DType compute) {
  return Projection(backend, weights, module, weights.projection(module.layer, module.slot),
                    weights.bias(module.layer, module.slot), compute);
}

}  // namespace coppice
