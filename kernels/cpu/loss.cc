// Cross entropy over the columns of a row: loss = L - logit of the target, L = log(sum of exp(logits)). A row
// is read for its largest logit, then for the exponentials (kept in its place when the gradient is wanted),
// then scaled; it stays in the cache in between.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/loss.cc"
#include <hwy/foreach_target.h>

#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

HWY_INLINE float largest_of(const float* x, int64_t cols) {
  Vec most = set(-std::numeric_limits<float>::infinity());
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) most = hn::Max(most, load(x + c, Whole()));
  float largest = max_of(most);
  for (; c < cols; ++c) largest = std::max(largest, x[c]);
  return largest;
}

HWY_INLINE Vec only(Vec value, Whole) {
  return value;
}
HWY_INLINE Vec only(Vec value, Part part) {
  return hn::IfThenElseZero(hn::FirstN(Floats(), size_t(part.count)), value);
}

// Returns the loss. With a gradient, weight * (softmax - onehot) goes to `gradient`, which may stand where x
// does: from its beginning, so that nothing is overwritten before it is read.
template <bool kGradient, typename Element = float>
HWY_INLINE float loss_of_row(float* x, int64_t cols, int64_t target, float weight,
                             Element* gradient = nullptr) {
  const float largest = largest_of(x, cols), logit = x[target];
  const float sum = sum_columns(cols, [=](int64_t c, auto part) HWY_ATTR {
    const Vec value = only(exp_of_difference(hn::Sub(load(x + c, part), set(largest))), part);
    if constexpr (kGradient) store(value, x + c, part);
    return value;
  });
  if constexpr (kGradient) {
    const float probability = x[target] / sum, factor = weight / sum;
    for_pieces(cols, [=](int64_t first, int64_t count) HWY_ATTR {
      Piece<Element> piece;
      float* const to = piece.of(gradient + first);
      const float* const from = x + first;
      for_columns(count, [=](int64_t c, auto part)
                             HWY_ATTR { store(hn::Mul(load(from + c, part), set(factor)), to + c, part); });
      if (target >= first && target < first + count) to[target - first] = weight * (probability - 1);
      piece.done(count, gradient + first);
    });
  }
  return float(std::log(double(sum)) - (double(logit) - double(largest)));
}

void loss_rows(Matrix logits, Matrix targets, Matrix loss, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    f32_row(loss, row)[0] =
        loss_of_row<false>(f32_row(logits, row), logits.cols, i32_row(targets, row)[0], 0);
}

void loss_rows_with_gradient(Matrix logits, Matrix targets, Matrix weights, Matrix loss, Matrix gradient,
                             int64_t begin, int64_t end) {
  with_elements(gradient, [&](auto element) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row)
      f32_row(loss, row)[0] =
          loss_of_row<true>(f32_row(logits, row), logits.cols, i32_row(targets, row)[0],
                            f32_row(weights, row)[0], row_of<decltype(element)>(gradient, row));
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "common/base/check.h"

namespace coppice {
namespace {

HWY_EXPORT(loss_rows);
HWY_EXPORT(loss_rows_with_gradient);

void check_shapes(const Matrix& logits, const Matrix& targets, const Matrix& loss) {
  CHECK(logits.dtype == DType::kF32 && targets.dtype == DType::kI32 && loss.dtype == DType::kF32);
  CHECK(targets.rows == logits.rows && targets.cols == 1 && loss.rows == logits.rows && loss.cols == 1);
  for (int64_t r = 0; r < targets.rows; ++r) {
    CHECK(i32_row(targets, r)[0] >= 0 && i32_row(targets, r)[0] < logits.cols);
  }
}

}  // namespace

void CpuBackend::cross_entropy(Matrix logits, Matrix targets, Matrix loss) {
  check_shapes(logits, targets, loss);
  for_rows(logits.rows, logits.cols, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(loss_rows)(logits, targets, loss, begin, end);
  });
}

void CpuBackend::cross_entropy_with_gradient(Matrix logits, Matrix targets, Matrix weights, Matrix loss,
                                             Matrix gradient) {
  check_shapes(logits, targets, loss);
  CHECK(weights.rows == logits.rows && weights.cols == 1);
  CHECK(gradient.rows == logits.rows && gradient.cols == logits.cols && is_float(gradient.dtype));
  for_rows(logits.rows, logits.cols, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(loss_rows_with_gradient)
    (logits, targets, weights, loss, gradient, begin, end);
  });
}

}  // namespace coppice
#endif
