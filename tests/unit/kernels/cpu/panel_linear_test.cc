// Weights held once: what comes out of a panel, as it stands or turned, at every shape that ends in part of
// one. That products are exact and rows keep their bits, the contract tests see.

#include "kernels/cpu/panel_linear.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/unit/kernels/cpu/linear_testing.h"

namespace coppice {
namespace {

class PanelLinearTest : public ::testing::TestWithParam<std::tuple<DType, int>> {
 protected:
  Matrix put(const std::vector<float>& values, int64_t rows, int64_t cols) {
    return matrices_.put(values, rows, cols);
  }
  std::vector<float> get(Matrix matrix) { return matrices_.get(matrix); }

  const DType compute_ = std::get<0>(GetParam());
  LinearMatrices matrices_{std::get<1>(GetParam())};
  Backend& backend_ = *matrices_.backend;
  PanelLinear linear_{backend_, matrices_.pool};
};

TEST_P(PanelLinearTest, BothDirectionsOfOneCopyAreTheWeight) {
  // Around a panel of 48, and around the 480 or 960 that are summed at a time.
  constexpr int64_t kShapes[][2] = {{1, 1},    {47, 49},  {48, 48},   {49, 47},  {96, 95},  {144, 33},
                                    {200, 1},  {1, 200},  {479, 97},  {480, 97}, {481, 97}, {97, 481},
                                    {961, 50}, {50, 961}, {959, 144}, {1200, 31}};
  for (const auto& [out, in] : kShapes) {
    SCOPED_TRACE(fmt::format("[{}, {}]", out, in));
    const std::vector<float> w = whole_numbers(out * in, 1);
    const auto weight = linear_.prepare({DType::kF32, {out, in}, std::as_bytes(std::span(w))}, compute_);
    for (int64_t rows : {1, 9, 130}) {
      const std::vector<float> x = whole_numbers(rows * in, 2), dy = whole_numbers(rows * out, 3),
                               bias = whole_numbers(out, 4), before = whole_numbers(rows * in, 5);
      const Matrix y = put(std::vector<float>(size_t(rows * out), NAN), rows, out),
                   dx = put(before, rows, in);
      linear_.forward(*weight, put(x, rows, in), put(bias, 1, out), y, {});
      linear_.backward(*weight, put(dy, rows, out), dx, true, {});
      const std::vector<float> got_y = get(y), got_dx = get(dx);
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
      matrices_.buffers.clear();
    }
  }
}

// Jobs of several ranks, some rows of none, at rows that are cut by blocks of 128.
TEST_P(PanelLinearTest, WhatIsDoneBesideHasTheBitsOfProductsAfterIt) {
  constexpr struct {
    int64_t row, rows, rank;
  } kJobs[] = {{0, 3, 8}, {3, 200, 16}, {210, 47, 5}, {257, 40, 64}};
  constexpr int64_t kRows = 300;
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{97, 50}, {40, 1001}, {1001, 40}, {144, 960}}) {
    SCOPED_TRACE(fmt::format("[{}, {}]", out, in));
    Random random(uint64_t(out + in));
    const auto values = [&](int64_t rows, int64_t cols) {
      std::vector<float> made(size_t(rows * cols));
      for (float& value : made) value = float(random.uniform()) - 0.5f;
      return put(made, rows, cols);
    };
    const std::vector<float> w = get(values(out, in));
    const auto weight = linear_.prepare({DType::kF32, {out, in}, std::as_bytes(std::span(w))}, compute_);
    const Matrix x = values(kRows, in), dy = values(kRows, out), bias = values(1, out);
    const Matrix y = values(kRows, out), dx = values(kRows, in);
    const Matrix y_after = put(get(y), kRows, out), dx_after = put(get(dx), kRows, in);
    std::vector<LowRankItem> forward, backward;
    std::vector<MatmulItem> down, up, dup, ddown;
    for (const auto& [row, rows, rank] : kJobs) {
      const Matrix a = values(rank, in), b = values(out, rank);
      const auto of = [&, row = row, rows = rows](Matrix all) { return all.row_range(row, rows); };
      forward.push_back({.down = a, .up = b, .inner = values(rows, rank), .row = row, .scale = 0.3f});
      backward.push_back({.down = a, .up = b, .inner = values(rows, rank), .row = row, .scale = 0.3f});
      down.push_back({.a = of(x), .b = a, .c = values(rows, rank), .transpose_b = true});
      up.push_back({.a = down.back().c,
                    .b = b,
                    .c = of(y_after),
                    .transpose_b = true,
                    .alpha = 0.3f,
                    .accumulate = true});
      dup.push_back({.a = of(dy), .b = b, .c = values(rows, rank), .alpha = 0.3f});
      ddown.push_back({.a = dup.back().c, .b = a, .c = of(dx_after), .accumulate = true});
    }
    linear_.forward(*weight, x, bias, y, forward);
    linear_.backward(*weight, dy, dx, true, backward);
    linear_.forward(*weight, x, bias, y_after, {});
    linear_.backward(*weight, dy, dx_after, true, {});
    for (const auto& products : {down, up, dup, ddown}) backend_.grouped_matmul(products, compute_);
    EXPECT_EQ(get(y), get(y_after));
    EXPECT_EQ(get(dx), get(dx_after));
    for (size_t job = 0; job < std::size(kJobs); ++job) {
      EXPECT_EQ(get(forward[job].inner), get(down[job].c)) << job;
      EXPECT_EQ(get(backward[job].inner), get(dup[job].c)) << job;
    }
    matrices_.buffers.clear();
  }
}

TEST_P(PanelLinearTest, NoRowsAreNothingToDo) {
  const std::vector<float> w = whole_numbers(50 * 40, 1);
  const auto weight = linear_.prepare({DType::kF32, {50, 40}, std::as_bytes(std::span(w))}, compute_);
  const Matrix x = put(w, 40, 50);
  linear_.backward(*weight, x.row_range(0, 0), put(w, 50, 40).row_range(0, 0), false, {});
}

TEST_P(PanelLinearTest, RowsOfAnExactWeightAreThoseItWasGiven) {
  const int64_t out = 101, in = 75;
  const std::vector<float> w = whole_numbers(out * in, 1);
  const auto weight = linear_.prepare({DType::kF32, {out, in}, std::as_bytes(std::span(w))}, compute_);
  ASSERT_TRUE(weight->exact());
  const std::vector<int32_t> wanted = {0, 100, 47, 48, 95, 96, 48, 1};
  const Buffer indices = backend_.allocate(wanted.size() * sizeof(int32_t));
  backend_.upload(wanted.data(), indices.matrix(int64_t(wanted.size()), 1, DType::kI32));
  const Matrix rows = put(std::vector<float>(wanted.size() * size_t(in), NAN), int64_t(wanted.size()), in);
  linear_.rows(*weight, indices.matrix(int64_t(wanted.size()), 1, DType::kI32), rows);
  const std::vector<float> got = get(rows);
  for (size_t r = 0; r < wanted.size(); ++r) {
    for (int64_t i = 0; i < in; ++i)
      ASSERT_EQ(got[r * size_t(in) + size_t(i)], w[size_t(wanted[r] * in + i)]) << r << ", " << i;
  }
}

TEST_P(PanelLinearTest, AWeightThatPackingChangesIsNotExact) {
  for (float value : {1 + 0x1p-10f, 0x1p-130f, -0x1p-149f}) {
    std::vector<float> w = whole_numbers(60 * 60, 1);
    w[3000] = value;
    const auto weight = linear_.prepare({DType::kF32, {60, 60}, std::as_bytes(std::span(w))}, compute_);
    EXPECT_EQ(weight->exact(), compute_ == DType::kF32) << value;
  }
}

INSTANTIATE_TEST_SUITE_P(PanelLinear, PanelLinearTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16),
                                            ::testing::Values(1, 3)),
                         [](const auto& info) {
                           return fmt::format("{}_{}_threads", dtype_name(std::get<0>(info.param)),
                                              std::get<1>(info.param));
                         });

}  // namespace
}  // namespace coppice
