// oneDNN's projections serve processors with AMX alone, but run on every one that has AVX-512: here they are
// seen to compute what they say, and to keep rows apart, wherever the tests run. Their bits on AMX are seen
// by the contract tests where there is AMX.

#include "kernels/cpu/onednn_linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "common/base/random.h"
#include "tests/unit/kernels/cpu/linear_testing.h"

namespace coppice {
namespace {

class OnednnLinearTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (backend_.instruction_set().find("avx512") == std::string::npos)
      GTEST_SKIP() << "oneDNN has no bfloat16 on " << backend_.instruction_set();
  }
  Matrix put(const std::vector<float>& values, int64_t rows, int64_t cols) {
    return matrices_.put(values, rows, cols);
  }
  std::vector<float> get(Matrix matrix) { return matrices_.get(matrix); }

  LinearMatrices matrices_{2};
  Backend& backend_ = *matrices_.backend;
  OnednnLinear linear_{backend_, matrices_.pool};
};

TEST_F(OnednnLinearTest, BothDirectionsAreTheWeight) {
  const int64_t out = 1100, in = 72;  // two blocks of columns
  const std::vector<float> w = whole_numbers(out * in, 1);
  const auto weight = linear_.prepare({DType::kF32, {out, in}, std::as_bytes(std::span(w))});
  for (int64_t rows : {1, 4, 130}) {
    const std::vector<float> x = whole_numbers(rows * in, 2), dy = whole_numbers(rows * out, 3),
                             bias = whole_numbers(out, 4), before = whole_numbers(rows * in, 5);
    const Matrix y = put(std::vector<float>(size_t(rows * out), NAN), rows, out),
                 few = put(get(y), rows, out), dx = put(before, rows, in);
    linear_.forward(*weight, put(x, rows, in), put(bias, 1, out), y);
    linear_.decode(*weight, put(x, rows, in), put(bias, 1, out), few);
    linear_.backward(*weight, put(dy, rows, out), dx, true);
    const std::vector<float> got_y = get(y), got_few = get(few), got_dx = get(dx);
    EXPECT_EQ(got_y, got_few);  // of whole numbers: sums are exact in any order
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < out; ++o) {
        float sum = bias[size_t(o)];
        for (int64_t i = 0; i < in; ++i) sum += x[size_t(r * in + i)] * w[size_t(o * in + i)];
        ASSERT_EQ(got_y[size_t(r * out + o)], sum) << rows << " rows: row " << r << ", output " << o;
      }
      for (int64_t i = 0; i < in; ++i) {
        float sum = before[size_t(r * in + i)];
        for (int64_t o = 0; o < out; ++o) sum += dy[size_t(r * out + o)] * w[size_t(o * in + i)];
        ASSERT_EQ(got_dx[size_t(r * in + i)], sum) << rows << " rows: row " << r << ", input " << i;
      }
    }
  }
}

TEST_F(OnednnLinearTest, ARowHasEqualBitsAtEveryPosition) {
  const int64_t out = 40, in = 1000, rows = 259;
  Random random(7);
  std::vector<float> w(size_t(out * in)), row(size_t(in), 0.0f), x;
  for (std::vector<float>* values : {&w, &row})
    for (float& value : *values) value = float(random.uniform()) - 0.5f;
  for (int64_t r = 0; r < rows; ++r) x.insert(x.end(), row.begin(), row.end());
  const auto weight = linear_.prepare({DType::kF32, {out, in}, std::as_bytes(std::span(w))});
  const Matrix y = put(std::vector<float>(size_t(rows * out), NAN), rows, out), alone = put(row, 1, in),
               y_alone = put(std::vector<float>(size_t(out), NAN), 1, out);
  linear_.forward(*weight, put(x, rows, in), {}, y);
  linear_.forward(*weight, alone, {}, y_alone);
  const std::vector<float> all = get(y), one = get(y_alone);
  for (int64_t r = 0; r < rows; ++r)
    ASSERT_EQ(std::memcmp(&all[size_t(r * out)], one.data(), one.size() * sizeof(float)), 0) << "row " << r;
}

}  // namespace
}  // namespace coppice
