// Root mean square norm (Zhang and Sennrich, 2019): y = x * r * weight, r = 1 / sqrt(mean(x^2) + epsilon).
// Sums in float32, in an order that the number of columns fixes.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cc"
#include <hwy/foreach_target.h>

#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

using Doubles = hn::ScalableTag<double>;

// Sum over the columns of a b, or of a b w; every product in double.
HWY_INLINE double sum_products(int64_t cols, const float* a, const float* b, const float* w) {
  const Doubles doubles;
  const hn::Rebind<float, Doubles> halves;
  constexpr int64_t kHalf = kLanes / 2;
  auto even = hn::Zero(doubles), odd = hn::Zero(doubles);
  const auto chain = [&](auto& sum, int64_t c) HWY_ATTR {
    auto value = hn::PromoteTo(doubles, hn::LoadU(halves, a + c));
    if (w != nullptr) value = hn::Mul(value, hn::PromoteTo(doubles, hn::LoadU(halves, w + c)));
    sum = hn::MulAdd(value, hn::PromoteTo(doubles, hn::LoadU(halves, b + c)), sum);
  };
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) {
    chain(even, c);
    chain(odd, c + kHalf);
  }
  double sum = hn::GetLane(hn::SumOfLanes(doubles, hn::Add(even, odd)));
  for (; c < cols; ++c) sum += double(a[c]) * (w != nullptr ? w[c] : 1.0f) * b[c];
  return sum;
}

template <typename Element>
HWY_INLINE void norm_rows_to(Matrix x, const float* weight, float epsilon, Matrix y, Matrix inverse_rms,
                             int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* const in = f32_row(x, row);
    Element* const out = row_of<Element>(y, row);
    const double squares = sum_products(x.cols, in, in, nullptr);
    const float r = float(1 / std::sqrt(squares / double(x.cols) + double(epsilon)));
    for_pieces(x.cols, [=](int64_t first, int64_t count) HWY_ATTR {
      Piece<Element> piece;
      float* const to = piece.of(out + first);
      const float *const from = in + first, *const scale = weight + first;
      for_columns(count, [=](int64_t c, auto part) HWY_ATTR {
        store(hn::Mul(hn::Mul(load(from + c, part), set(r)), load(scale + c, part)), to + c, part);
      });
      piece.done(count, out + first);
    });
    f32_row(inverse_rms, row)[0] = r;
  }
}

void norm_rows(Matrix x, const float* weight, float epsilon, Matrix y, Matrix inverse_rms, int64_t begin,
               int64_t end) {
  with_elements(y, [&](auto element) HWY_ATTR {
    norm_rows_to<decltype(element)>(x, weight, epsilon, y, inverse_rms, begin, end);
  });
}

// dx = r * (g - x * r^2 * mean(g * x)), g = dy * weight; dx may be dy.
void norm_backward_rows(Matrix x, const float* weight, Matrix inverse_rms, Matrix dy, Matrix dx,
                        bool accumulate, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float *const in = f32_row(x, row), *const d = f32_row(dy, row);
    float* const out = f32_row(dx, row);
    const float r = f32_row(inverse_rms, row)[0];
    const double product = sum_products(x.cols, d, in, weight);
    const float factor = float(double(r) * r * product / double(x.cols));
    for_columns(x.cols, [=](int64_t c, auto part) HWY_ATTR {
      const Vec g = hn::Mul(load(d + c, part), load(weight + c, part));
      const Vec gradient = hn::Mul(set(r), hn::Sub(g, hn::Mul(load(in + c, part), set(factor))));
      store(accumulate ? hn::Add(load(out + c, part), gradient) : gradient, out + c, part);
    });
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "common/base/check.h"

namespace coppice {
namespace {

HWY_EXPORT(norm_rows);
HWY_EXPORT(norm_backward_rows);

}  // namespace

void CpuBackend::rms_norm(Matrix x, Matrix weight, float epsilon, Matrix y, Matrix inverse_rms) {
  CHECK(y.rows == x.rows && y.cols == x.cols && weight.rows == 1 && weight.cols == x.cols);
  CHECK(x.dtype == DType::kF32 && is_float(y.dtype));
  CHECK(inverse_rms.rows == x.rows && inverse_rms.cols == 1);
  for_rows(x.rows, x.cols, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(norm_rows)(x, weight.as<float>(), epsilon, y, inverse_rms, begin, end);
  });
}

void CpuBackend::rms_norm_backward(Matrix x, Matrix weight, Matrix inverse_rms, Matrix dy, Matrix dx,
                                   bool accumulate) {
  CHECK(dy.rows == x.rows && dy.cols == x.cols && dx.rows == x.rows && dx.cols == x.cols);
  CHECK(weight.cols == x.cols && inverse_rms.rows == x.rows && inverse_rms.cols == 1);
  for_rows(x.rows, x.cols, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(norm_backward_rows)
    (x, weight.as<float>(), inverse_rms, dy, dx, accumulate, begin, end);
  });
}

}  // namespace coppice
#endif
