// Optimizer updates with the very arithmetic of kernels/ref/update.cc, element by element, and the norm that
// clipping needs. The parameter server's tensors are one long row each, so that rows are cut into pieces for
// the threads; the cut depends on the number of columns alone.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/update.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd-inl.h"

namespace coppice {
#ifndef COPPICE_KERNELS_CPU_UPDATE_ONCE
#define COPPICE_KERNELS_CPU_UPDATE_ONCE
// What no element changes, computed in double and rounded once.
struct AdamWFactors {
  float gradient, keep, take1, beta2, take2, size, correction, epsilon;
};
struct SgdFactors {
  float gradient, decay, rate, momentum;
  bool first;
};
#endif
}  // namespace coppice

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

void adamw_row(const AdamWFactors& f, int64_t cols, const float* gradient, float* w, float* m, float* v) {
  for_columns(cols, [=](int64_t c, auto part) HWY_ATTR {
    const Vec g = hn::Mul(load(gradient + c, part), set(f.gradient));
    const Vec kept = hn::Mul(load(w + c, part), set(f.keep)), m0 = load(m + c, part);
    const Vec m1 = hn::Add(m0, hn::Mul(set(f.take1), hn::Sub(g, m0)));
    const Vec v1 = hn::Add(hn::Mul(set(f.beta2), load(v + c, part)), hn::Mul(hn::Mul(set(f.take2), g), g));
    const Vec root = hn::Add(hn::Div(hn::Sqrt(v1), set(f.correction)), set(f.epsilon));
    store(m1, m + c, part);
    store(v1, v + c, part);
    store(hn::Sub(kept, hn::Mul(set(f.size), hn::Div(m1, root))), w + c, part);
  });
}

// buffer null: without momentum.
void sgd_row(const SgdFactors& f, int64_t cols, const float* gradient, float* w, float* buffer) {
  for_columns(cols, [=](int64_t c, auto part) HWY_ATTR {
    const Vec before = load(w + c, part);
    Vec g = hn::Add(hn::Mul(load(gradient + c, part), set(f.gradient)), hn::Mul(set(f.decay), before));
    if (buffer != nullptr) {
      if (!f.first) g = hn::Add(hn::Mul(set(f.momentum), load(buffer + c, part)), g);
      store(g, buffer + c, part);
    }
    store(hn::Sub(before, hn::Mul(set(f.rate), g)), w + c, part);
  });
}

// In double, in four chains by column number.
double squares_of_row(const float* x, int64_t cols) {
  const hn::ScalableTag<double> doubles;
  const hn::Rebind<float, hn::ScalableTag<double>> halves;
  constexpr int64_t kHalf = kLanes / 2;
  auto s0 = hn::Zero(doubles), s1 = hn::Zero(doubles), s2 = hn::Zero(doubles), s3 = hn::Zero(doubles);
  const auto chain = [&](auto& sum, const float* from) HWY_ATTR {
    const auto value = hn::PromoteTo(doubles, hn::LoadU(halves, from));
    sum = hn::MulAdd(value, value, sum);
  };
  int64_t c = 0;
  for (; c + 4 * kHalf <= cols; c += 4 * kHalf) {
    chain(s0, x + c);
    chain(s1, x + c + kHalf);
    chain(s2, x + c + 2 * kHalf);
    chain(s3, x + c + 3 * kHalf);
  }
  double sum = hn::GetLane(hn::SumOfLanes(doubles, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; c < cols; ++c) sum += double(x[c]) * x[c];
  return sum;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <cmath>

#include "common/base/check.h"

namespace coppice {
namespace {

HWY_EXPORT(adamw_row);
HWY_EXPORT(sgd_row);
HWY_EXPORT(squares_of_row);

constexpr int64_t kPiece = 16384;  // columns: worth the waking of a thread

int64_t pieces_of(int64_t cols) {
  return std::max<int64_t>(1, (cols + kPiece - 1) / kPiece);
}

void check_same(const Matrix& a, const Matrix& b) {
  CHECK(a.rows == b.rows && a.cols == b.cols && a.dtype == DType::kF32 && b.dtype == DType::kF32);
}

}  // namespace

// piece(row, first column, columns) for all pieces of all rows.
template <typename Piece>
void CpuBackend::for_pieces(const Matrix& x, const Piece& piece) {
  const int64_t pieces = pieces_of(x.cols);
  for_rows(x.rows * pieces, std::min(x.cols, kPiece), [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) {
      const int64_t begin = i % pieces * kPiece;
      piece(i / pieces, begin, std::min(kPiece, x.cols - begin));
    }
  });
}

void CpuBackend::adamw(const AdamWStep& step, Matrix parameter, Matrix gradient, Matrix first_moment,
                       Matrix second_moment) {
  for (const Matrix& x : {gradient, first_moment, second_moment}) check_same(parameter, x);
  CHECK(step.step >= 1);
  const double beta1 = step.beta1, beta2 = step.beta2, rate = step.learning_rate, t = double(step.step);
  const AdamWFactors factors = {float(step.gradient_factor),
                                float(1 - rate * step.weight_decay),
                                float(1 - beta1),
                                float(beta2),
                                float(1 - beta2),
                                float(rate / (1 - std::pow(beta1, t))),
                                float(std::sqrt(1 - std::pow(beta2, t))),
                                float(step.epsilon)};
  for_pieces(parameter, [&](int64_t r, int64_t begin, int64_t cols) {
    HWY_DYNAMIC_DISPATCH(adamw_row)
    (factors, cols, f32_row(gradient, r) + begin, f32_row(parameter, r) + begin,
     f32_row(first_moment, r) + begin, f32_row(second_moment, r) + begin);
  });
}

void CpuBackend::sgd(const SgdStep& step, Matrix parameter, Matrix gradient, Matrix momentum) {
  check_same(parameter, gradient);
  CHECK(step.step >= 1 && momentum.empty() == (step.momentum == 0));
  if (!momentum.empty()) check_same(parameter, momentum);
  const SgdFactors factors = {float(step.gradient_factor), float(step.weight_decay),
                              float(step.learning_rate), float(step.momentum), step.step == 1};
  for_pieces(parameter, [&](int64_t r, int64_t begin, int64_t cols) {
    HWY_DYNAMIC_DISPATCH(sgd_row)
    (factors, cols, f32_row(gradient, r) + begin, f32_row(parameter, r) + begin,
     momentum.empty() ? nullptr : f32_row(momentum, r) + begin);
  });
}

// The pieces' sums are added in the order of the pieces, row by row.
double CpuBackend::squared_norm(Matrix x) {
  CHECK(x.dtype == DType::kF32);
  std::vector<double> sums(size_t(x.rows * pieces_of(x.cols)), 0.0);
  for_pieces(x, [&](int64_t r, int64_t begin, int64_t cols) {
    sums[size_t(r * pieces_of(x.cols) + begin / kPiece)] =
        HWY_DYNAMIC_DISPATCH(squares_of_row)(f32_row(x, r) + begin, cols);
  });
  double sum = 0;
  for (const double piece : sums) sum += piece;
  return sum;
}

}  // namespace coppice
#endif
