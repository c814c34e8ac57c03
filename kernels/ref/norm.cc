// Root mean square norm (Zhang and Sennrich, 2019): y = x * r * weight, r = 1 / sqrt(mean(x^2) + epsilon).
// Means are in double.

#include <cmath>

#include "common/base/check.h"
#include "kernels/ref/ref_backend.h"

namespace coppice {

void RefBackend::rms_norm(Matrix x, Matrix weight, float epsilon, Matrix y, Matrix inverse_rms) {
  CHECK(y.rows == x.rows && y.cols == x.cols && weight.rows == 1 && weight.cols == x.cols);
  CHECK(inverse_rms.rows == x.rows && inverse_rms.cols == 1);
  for_each(x.rows, [&](int64_t row) {
    const float *const in = f32_row(x, row), *const w = f32_row(weight, 0);
    double squares = 0;
    for (int64_t c = 0; c < x.cols; ++c) squares += double(in[c]) * in[c];
    const float r = float(1 / std::sqrt(squares / double(x.cols) + epsilon));
    for (int64_t c = 0; c < x.cols; ++c) set_element(y, row, c, in[c] * r * w[c]);
    f32_row(inverse_rms, row)[0] = r;
  });
}

// dx = r * (g - x * r^2 * mean(g * x)), g = dy * weight; dx may be dy.
void RefBackend::rms_norm_backward(Matrix x, Matrix weight, Matrix inverse_rms, Matrix dy, Matrix dx,
                                   bool accumulate) {
  CHECK(dy.rows == x.rows && dy.cols == x.cols && dx.rows == x.rows && dx.cols == x.cols);
  CHECK(weight.cols == x.cols && inverse_rms.rows == x.rows && inverse_rms.cols == 1);
  for_each(x.rows, [&](int64_t row) {
    const float *const in = f32_row(x, row), *const w = f32_row(weight, 0), *const g = f32_row(dy, row);
    const float r = f32_row(inverse_rms, row)[0];
    double product = 0;
    for (int64_t c = 0; c < x.cols; ++c) product += double(g[c]) * w[c] * in[c];
    const float factor = float(double(r) * r * product / double(x.cols));
    float* const out = f32_row(dx, row);
    for (int64_t c = 0; c < x.cols; ++c) {
      const float gradient = r * (g[c] * w[c] - in[c] * factor);
      out[c] = accumulate ? out[c] + gradient : gradient;
    }
  });
}

}  // namespace coppice
