// Optimizer updates, element by element, with torch's semantics: torch.optim.AdamW (2.x) and torch.optim.SGD.

#include <cmath>

#include "common/base/check.h"
#include "kernels/ref/ref_backend.h"

namespace coppice {
namespace {

void check_same(const Matrix& a, const Matrix& b) {
  CHECK(a.rows == b.rows && a.cols == b.cols && a.dtype == DType::kF32 && b.dtype == DType::kF32);
}

}  // namespace

// AdamW (Loshchilov and Hutter, 2019): with g the gradient times gradient_factor,
//   w *= 1 - lr * decay     m += (1 - beta1) (g - m)     v = beta2 v + (1 - beta2) g^2
//   w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
// Factors that no element changes are computed in double and rounded once.
void RefBackend::adamw(const AdamWStep& step, Matrix parameter, Matrix gradient, Matrix first_moment,
                       Matrix second_moment) {
  check_same(parameter, gradient);
  check_same(parameter, first_moment);
  check_same(parameter, second_moment);
  CHECK(step.step >= 1);
  const double beta1 = step.beta1, beta2 = step.beta2, rate = step.learning_rate;
  const float keep = float(1 - rate * step.weight_decay);
  const float take1 = float(1 - beta1), take2 = float(1 - beta2);
  const float size = float(rate / (1 - std::pow(beta1, double(step.step))));
  const float correction = float(std::sqrt(1 - std::pow(beta2, double(step.step))));
  const float factor = float(step.gradient_factor), keep2 = float(beta2), epsilon = float(step.epsilon);
  for_each(parameter.rows, [&](int64_t r) {
    float *const w = f32_row(parameter, r), *const m = f32_row(first_moment, r),
                 *const v = f32_row(second_moment, r);
    for (int64_t c = 0; c < parameter.cols; ++c) {
      const float g = f32_row(gradient, r)[c] * factor;
      w[c] *= keep;
      m[c] += take1 * (g - m[c]);
      v[c] = keep2 * v[c] + take2 * g * g;
      w[c] -= size * (m[c] / (std::sqrt(v[c]) / correction + epsilon));
    }
  });
}

// With g the gradient times gradient_factor:  g += decay * w;  buffer = g at the first step, momentum *
// buffer + g after it; w -= lr * buffer (lr * g without momentum).
void RefBackend::sgd(const SgdStep& step, Matrix parameter, Matrix gradient, Matrix momentum) {
  check_same(parameter, gradient);
  CHECK(step.step >= 1 && momentum.empty() == (step.momentum == 0));
  if (!momentum.empty()) check_same(parameter, momentum);
  const float factor = float(step.gradient_factor), decay = float(step.weight_decay),
              rate = float(step.learning_rate), keep = float(step.momentum);
  for_each(parameter.rows, [&](int64_t r) {
    float* const w = f32_row(parameter, r);
    for (int64_t c = 0; c < parameter.cols; ++c) {
      float g = f32_row(gradient, r)[c] * factor + decay * w[c];
      if (!momentum.empty()) {
        float& buffer = f32_row(momentum, r)[c];
        g = buffer = step.step == 1 ? g : keep * buffer + g;
      }
      w[c] -= rate * g;
    }
  });
}

double RefBackend::squared_norm(Matrix x) {
  CHECK(x.dtype == DType::kF32);
  double sum = 0;
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) sum += double(f32_row(x, r)[c]) * f32_row(x, r)[c];
  }
  return sum;
}

}  // namespace coppice
