// Rows that an operator writes as BF16 go through products with the bits of the same rows in F32: whether a
// pack has the one or the other may then depend on who else is in it. With denormals, infinities and NaN, at
// depths that are pairs where they stand and such that are not. The sign of a NaN is that of whichever
// operand came first, which means nothing.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/contract/backend/device.h"
#include "tests/contract/backend/operators.h"

namespace coppice::contract {
namespace {

constexpr int64_t kRows = 37, kOut = 50, kRank = 5;

class RoundedRowsTest : public ::testing::TestWithParam<std::string> {
 protected:
  Matrix put(const Array& array) {
    const Matrix matrix = undefined(array.rows, array.cols, array.dtype);
    device_->upload(array.bytes.data(), matrix);
    return matrix;
  }
  Matrix undefined(int64_t rows, int64_t cols, DType dtype = DType::kF32) {
    buffers_.push_back(device_->allocate(size_t(rows * cols) * dtype_size(dtype)));
    return buffers_.back().matrix(rows, cols, dtype);
  }
  Array got(const Matrix& matrix) {
    Array array(matrix.rows, matrix.cols);
    device_->download(matrix, array.bytes.data());
    return array;
  }

  // x W^T beside a low-rank product, dy W, and both gradients of factors, of rows of either dtype.
  std::vector<Array> products(const Matrix& x) {
    Random random(3);
    const auto forward = device_->prepare_weight(uniform(kOut, x.cols, random).view(), DType::kBF16);
    const auto backward = device_->prepare_weight(uniform(x.cols, kOut, random).view(), DType::kBF16);
    const Matrix y = undefined(kRows, kOut), dx = undefined(kRows, kOut), inner = undefined(kRows, kRank);
    const LowRankItem beside = {
        .down = put(uniform(kRank, x.cols, random)), .up = put(uniform(kOut, kRank, random)), .inner = inner};
    device_->linear(*forward, x, {}, y, {&beside, 1});
    device_->linear_backward(*backward, x, dx, false);
    const Matrix thin = put(uniform(kRows, kRank, random));
    const Matrix da = undefined(kRank, x.cols), db = undefined(x.cols, kRank);
    const MatmulItem items[] = {{.a = thin, .b = x, .c = da, .transpose_a = true},
                                {.a = x, .b = thin, .c = db, .transpose_a = true}};
    device_->grouped_matmul(items, DType::kBF16);
    return {got(y), got(inner), got(dx), got(da), got(db)};
  }
  void expect_equal_products(const Matrix& floats, const Matrix& rounded, const std::string& what) {
    const std::vector<Array> expected = products(floats), actual = products(rounded);
    for (size_t i = 0; i < expected.size(); ++i)
      expect_close(actual[i], expected[i], 0, fmt::format("{}, product {}", what, i));
  }

  Device device_{GetParam()};
  std::vector<Buffer> buffers_;
};

Array with_special_values(int64_t cols, Random& random) {
  Array array = uniform(kRows, cols, random, 6);
  for (int64_t c = 0; c < cols; ++c) array.at(1, c) *= 1e-39f;
  array.at(2, cols / 2) = std::numeric_limits<float>::quiet_NaN();
  array.at(3, cols - 1) = std::numeric_limits<float>::infinity();
  array.at(4, 0) = -std::numeric_limits<float>::quiet_NaN();
  return array;
}

TEST_P(RoundedRowsTest, HaveTheProductsOfFloats) {
  for (int64_t cols : {1, 2, 33, 64, 770, 1031}) {
    Random random{uint64_t(cols)};
    const Matrix x = put(with_special_values(cols, random)), other = put(uniform(kRows, cols, random));
    const Matrix dy = put(uniform(kRows, cols, random)), weight = put(uniform(1, cols, random));
    const Matrix loss = undefined(kRows, 1), inverse = undefined(kRows, 1);
    std::vector<Matrix> results[2];
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      std::vector<Matrix>& to = results[dtype == DType::kBF16];
      for (int i = 0; i < 4; ++i) to.push_back(undefined(kRows, cols, dtype));
      device_->gated_activation(Activation::kSilu, x, other, to[0]);
      device_->gated_activation_backward(Activation::kSilu, x, other, dy, to[1], to[2]);
      device_->rms_norm(x, weight, 1e-6f, to[3], inverse);
    }
    const int head_dim = cols % 2 == 0 ? int(cols) : 0;
    if (head_dim > 0) {
      const Matrix cos = put(uniform(kRows, cols / 2, random)), sin = put(uniform(kRows, cols / 2, random));
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        std::vector<Matrix>& to = results[dtype == DType::kBF16];
        to.push_back(undefined(kRows, cols, dtype));
        device_->rotary(x, cos, sin, head_dim, false, to.back());
      }
    }
    const char* const names[] = {"gated", "dgate", "dup", "norm", "rotary"};
    for (size_t i = 0; i < results[0].size(); ++i)
      expect_equal_products(results[0][i], results[1][i], fmt::format("{} of {} columns", names[i], cols));
    const Matrix logits = put(uniform(kRows, cols, random, 90)), same = undefined(kRows, cols);
    const UnaryItem copy{logits, same};
    device_->copy({&copy, 1});
    const Matrix targets = put(indices(kRows, cols, random)), weights = put(uniform(kRows, 1, random));
    device_->cross_entropy_with_gradient(logits, targets, weights, loss, logits);
    device_->cross_entropy_with_gradient(same, targets, weights, loss, as_bfloat16(same));
    expect_equal_products(logits, as_bfloat16(same), fmt::format("gradient of {} logits", cols));
    if (HasFailure()) return;
  }
}

// So whether a pack's y or dx is rounded by its product or, where a hook changes it first, by copy() shows in
// no bits. The depths have one part and several.
TEST_P(RoundedRowsTest, LinearRoundsAsCopyDoes) {
  for (int64_t depth : {1, 33, 770, 2049}) {
    for (int64_t out : {1, 50, 193, 300}) {
      Random random{uint64_t(depth + out)};
      const auto weight = device_->prepare_weight(uniform(out, depth, random).view(), DType::kBF16);
      Array values = with_special_values(depth, random), constant = uniform(1, out, random);
      for (int64_t c = 0; c < depth; ++c) values.at(5, c) = values.at(6, c) = 0;
      constant.at(0, 0) = 1e-39f;  // y of row 5: a denormal
      values.at(6, 0) = 1.2e-38f;  // dx of row 6: denormals
      const Matrix x = put(values), bias = put(constant);
      const LowRankItem beside = {.down = put(uniform(kRank, depth, random)),
                                  .up = put(uniform(out, kRank, random)),
                                  .inner = undefined(kRows - 3, kRank),
                                  .row = 2};
      const Matrix y = undefined(kRows, out), copied = undefined(kRows, out, DType::kBF16),
                   direct = undefined(kRows, out, DType::kBF16);
      device_->linear(*weight, x, bias, y, {&beside, 1});
      device_->linear(*weight, x, bias, direct, {&beside, 1});
      const auto expect_alike = [&](const std::string& what) {
        const UnaryItem rounding{y, copied};
        device_->copy({&rounding, 1});
        const Matrix widened = undefined(kRows, out), expected = undefined(kRows, out);
        const UnaryItem widening[] = {{direct, widened}, {copied, expected}};
        device_->copy(widening);
        expect_close(got(widened), got(expected), 0, fmt::format("{}, {} to {}", what, depth, out));
      };
      expect_alike("y");
      const auto turned = device_->prepare_weight(uniform(depth, out, random).view(), DType::kBF16);
      const LowRankItem back = {.down = put(uniform(kRank, out, random)),
                                .up = put(uniform(depth, kRank, random)),
                                .inner = beside.inner,
                                .row = 2};
      device_->linear_backward(*turned, x, y, false, {&back, 1});
      device_->linear_backward(*turned, x, direct, false, {&back, 1});
      expect_alike("dx");
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RoundedRowsTest, ::testing::ValuesIn(backend_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace coppice::contract
