// Cross entropy over the columns of a row: loss = L - logit of the target, L = log(sum of exp(logits)). L is
// in double.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/base/check.h"
#include "kernels/ref/ref_backend.h"

namespace coppice {
namespace {

double log_sum_exp(const float* logits, int64_t cols) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t c = 0; c < cols; ++c) largest = std::max(largest, logits[c]);
  double sum = 0;
  for (int64_t c = 0; c < cols; ++c) sum += std::exp(logits[c] - largest);
  return largest + std::log(sum);
}

int32_t target_of(const Matrix& targets, const Matrix& logits, int64_t row) {
  const int32_t target = i32_row(targets, row)[0];
  CHECK(target >= 0 && target < logits.cols);
  return target;
}

void check_shapes(const Matrix& logits, const Matrix& targets, const Matrix& loss) {
  CHECK(logits.dtype == DType::kF32 && targets.dtype == DType::kI32 && loss.dtype == DType::kF32);
  CHECK(targets.rows == logits.rows && targets.cols == 1 && loss.rows == logits.rows && loss.cols == 1);
}

}  // namespace

void RefBackend::cross_entropy(Matrix logits, Matrix targets, Matrix loss) {
  check_shapes(logits, targets, loss);
  for_each(logits.rows, [&](int64_t row) {
    const float* const x = f32_row(logits, row);
    f32_row(loss, row)[0] = float(log_sum_exp(x, logits.cols) - x[target_of(targets, logits, row)]);
  });
}

// dlogit_c = weight * (exp(logit_c - L) - [c is the target])
void RefBackend::cross_entropy_with_gradient(Matrix logits, Matrix targets, Matrix weights, Matrix loss,
                                             Matrix gradient) {
  check_shapes(logits, targets, loss);
  CHECK(weights.rows == logits.rows && weights.cols == 1);
  CHECK(gradient.rows == logits.rows && gradient.cols == logits.cols);
  for_each(logits.rows, [&](int64_t row) {
    const std::vector<float> copy(f32_row(logits, row), f32_row(logits, row) + logits.cols);
    const float* const x = copy.data();
    const int32_t target = target_of(targets, logits, row);
    const double log_sum = log_sum_exp(x, logits.cols);
    const float weight = f32_row(weights, row)[0];
    f32_row(loss, row)[0] = float(log_sum - x[target]);
    for (int64_t c = 0; c < logits.cols; ++c) {
      const float probability = float(std::exp(x[c] - log_sum));
      set_element(gradient, row, c, weight * (c == target ? probability - 1 : probability));
    }
  });
}

}  // namespace coppice
