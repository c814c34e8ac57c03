// Attention with large scores, of every backend against double: the reference rounds a score as other devices
// do, so comparing with it does not show how far both are from the formula.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/contract/backend/device.h"
#include "tests/contract/backend/doubles.h"
#include "tests/contract/backend/operators.h"
#include "tests/contract/backend/tolerance.h"

namespace coppice::contract {
namespace {

Doubles doubles(const Array& array) {
  return {array.f(), array.f() + array.size()};
}

class SharpAttentionTest : public ::testing::TestWithParam<std::string> {};

TEST_P(SharpAttentionTest, FollowsTheFormulaAsFarAsScoresInFloat32Can) {
  Device device(GetParam());
  Random random(20240229);
  for (int64_t size : {16, 64, 256}) {
    const int64_t rows = 259;
    Array out = filled(rows, size, 0), log_sum = filled(rows, 1, 0), expected = out, expected_sum = log_sum;
    const Array in[] = {uniform(rows, size, random, 120), uniform(rows, size, random),
                        uniform(rows, size, random)};
    std::vector<Buffer> buffers;
    const auto put = [&](const Array& array) {
      buffers.push_back(device->allocate(array.bytes.size()));
      const Matrix matrix = buffers.back().matrix(array.rows, array.cols);
      device->upload(array.bytes.data(), matrix);
      return matrix;
    };
    const double scale = 1 / std::sqrt(double(size));
    const AttentionItem item{put(in[0]), put(in[1]), put(in[2]), {}, {}, 0, put(out), put(log_sum)};
    device->attention({1, 1, int(size), float(scale)}, {&item, 1}, DType::kF32);
    device->download(item.out, out.bytes.data());
    device->download(item.log_sum, log_sum.bytes.data());

    const AttentionCase shape = {
        .queries = rows, .heads = 1, .kv_heads = 1, .head_dim = size, .scale = scale};
    Doubles sums;
    const Doubles values =
        attention_in_double(shape, {doubles(in[0]), doubles(in[1]), doubles(in[2]), {}, {}}, &sums);
    std::copy(values.begin(), values.end(), expected.f());
    std::copy(sums.begin(), sums.end(), expected_sum.f());
    expect_close(out, expected, kSharpTolerance, fmt::format("out of a head of {}", size));
    expect_close(log_sum, expected_sum, kSumTolerance, fmt::format("log_sum of a head of {}", size));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, SharpAttentionTest, ::testing::ValuesIn(backend_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace coppice::contract
