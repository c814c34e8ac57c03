// The promise for frozen projections, at the depths where libraries change their blocking: a row has the same
// bits at any position, in any company, in any number of rows and with any number of threads.

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <cmath>

#include "tests/contract/backend/device.h"
#include "tests/contract/backend/operators.h"

namespace coppice::contract {
namespace {

constexpr int64_t kMostRows = 300;  // beyond the largest tile
constexpr int64_t kOut = 40;

struct Shape {
  int64_t depth, rows;
};

std::vector<Shape> shapes() {
  if (long_tests()) {
    return {{8, 1100},   {255, 1100}, {768, 1100}, {1000, 1100}, {2048, 600},
            {2049, 600}, {4096, 600}, {8192, 300}, {11008, 300}, {14336, 300}};
  }
  return {{8, kMostRows}, {255, kMostRows}, {768, kMostRows}, {1000, kMostRows},
          {2048, 140},    {4096, 70},       {11008, 20}};
}

enum class Direction { kForward, kBackward, kBackwardAccumulate };

class LinearTest : public ::testing::TestWithParam<std::tuple<std::string, DType, Direction>> {
 protected:
  DType compute() const { return std::get<1>(GetParam()); }
  bool forward() const { return std::get<2>(GetParam()) == Direction::kForward; }
  bool accumulate() const { return std::get<2>(GetParam()) == Direction::kBackwardAccumulate; }

  // x [rows, depth] through a weight whose depth is that of x; what is accumulated into is a function of x's
  // rows.
  Array product(Backend& backend, const FrozenWeight& weight, const Array& x) {
    const Buffer in = backend.allocate(x.bytes.size()),
                 out = backend.allocate(size_t(x.rows * kOut) * sizeof(float));
    const Matrix from = in.matrix(x.rows, x.cols), to = out.matrix(x.rows, kOut);
    Array y(x.rows, kOut);
    for (int64_t r = 0; r < y.rows; ++r) std::fill_n(&y.at(r, 0), kOut, accumulate() ? x.at(r, 0) : NAN);
    backend.upload(x.bytes.data(), from);
    backend.upload(y.bytes.data(), to);
    if (forward()) {
      backend.linear(weight, from, {}, to);
    } else {
      backend.linear_backward(weight, from, to, accumulate());
    }
    backend.download(to, y.bytes.data());
    return y;
  }
  std::unique_ptr<FrozenWeight> weight(Backend& backend, int64_t depth) {
    Random random(uint64_t(depth) + 99);
    const Array values = forward() ? uniform(kOut, depth, random) : uniform(depth, kOut, random);
    return backend.prepare_weight(values.view(), compute());
  }
};

TEST_P(LinearTest, EqualBitsAtAnyPositionInAnyCompany) {
  Device device(std::get<0>(GetParam())), one(std::get<0>(GetParam()), 1), three(std::get<0>(GetParam()), 3);
  for (const Shape& shape : shapes()) {
    Random random(uint64_t(shape.depth));
    const Array x = uniform(shape.rows, shape.depth, random, 3);
    const auto w = weight(*device, shape.depth);
    const Array whole = product(*device, *w, x);
    for (Device* other : {&one, &three}) {
      expect_equal_bits(product(**other, *weight(**other, shape.depth), x), whole,
                        fmt::format("depth {}, {} threads", shape.depth, other->pool.threads()));
    }
    // The same rows from each of these on, in calls of each of these lengths.
    for (int64_t first : {int64_t(0), int64_t(1), int64_t(5), shape.rows / 2, shape.rows - 1}) {
      for (int64_t count : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 127, 128, 129}) {
        std::vector<int64_t> rows;
        for (int64_t r = first; r < std::min(first + count, shape.rows); ++r) rows.push_back(r);
        expect_equal_bits(product(*device, *w, take_rows(x, rows)), take_rows(whole, rows),
                          fmt::format("depth {}, {} rows from {}", shape.depth, count, first));
        if (HasFailure()) return;
      }
    }
    // One row at every position: all rows of a call are this one.
    const std::vector<int64_t> copies(size_t(shape.rows), 3);
    expect_equal_bits(product(*device, *w, take_rows(x, copies)), take_rows(whole, copies),
                      fmt::format("depth {}, copies of a row", shape.depth));
  }
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<std::string, DType, Direction>>& info) {
  constexpr const char* kNames[] = {"forward", "backward", "backward_accumulate"};
  const auto& [backend, dtype, direction] = info.param;
  return fmt::format("{}_{}_{}", backend, dtype_name(dtype), kNames[int(direction)]);
}

INSTANTIATE_TEST_SUITE_P(Backends, LinearTest,
                         ::testing::Combine(::testing::ValuesIn(backend_names()),
                                            ::testing::Values(DType::kF32, DType::kBF16),
                                            ::testing::Values(Direction::kForward, Direction::kBackward,
                                                              Direction::kBackwardAccumulate)),
                         name_of);

}  // namespace
}  // namespace coppice::contract
