// Products in BF16 take operands of F32 and of BF16: what counts are the values, not how they are stored.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <tuple>

#include "tests/contract/backend/device.h"
#include "tests/contract/backend/operators.h"

namespace coppice::contract {
namespace {

Array rounded(Array array) {
  for (int64_t i = 0; i < array.size(); ++i) array.f()[i] = round_to_bf16(array.f()[i]);
  return array;
}

// Which operand is transposed, for each half of a variant.
class GroupedMatmulTest : public ::testing::TestWithParam<std::tuple<std::string, bool, bool>> {
 protected:
  bool transpose_a() const { return std::get<1>(GetParam()); }
  bool transpose_b() const { return std::get<2>(GetParam()); }
};

// Rows of c, depth, columns.
constexpr int64_t kShapes[][3] = {
    {1, 1, 1},      {3, 2, 5},     {8, 7, 8},      {16, 32, 17},  {7, 33, 16},  {16, 513, 100}, {300, 64, 33},
    {70, 1000, 16}, {768, 65, 16}, {16, 300, 768}, {30, 40, 250}, {16, 129, 8}, {8, 530, 256}};

TEST_P(GroupedMatmulTest, OperandsOfEqualValuesGiveEqualBitsInEitherDtype) {
  Device device(std::get<0>(GetParam()));
  Random random(11);
  for (const auto& [rows, depth, cols] : kShapes) {
    const Array a = rounded(transpose_a() ? uniform(depth, rows, random) : uniform(rows, depth, random));
    const Array b = rounded(transpose_b() ? uniform(cols, depth, random) : uniform(depth, cols, random));
    const Array start = uniform(rows, cols, random);
    Operator op;
    op.run = [&](Backend& backend, std::span<const Placed> items) {
      std::vector<MatmulItem> list;
      for (const Placed& item : items)
        list.push_back({item[0], item[1], item[2], transpose_a(), transpose_b(), 0.3f, true});
      backend.grouped_matmul(list, DType::kBF16);
    };
    std::vector<Item> items;
    for (int which = 0; which < 4; ++which) {
      items.push_back({whole_in((which & 1) != 0 ? in_dtype(a, DType::kBF16) : a),
                       whole_in((which & 2) != 0 ? in_dtype(b, DType::kBF16) : b), whole_inout(start)});
    }
    for (Layout layout : {Layout::kDense, Layout::kViews}) {
      const Results results = run(*device, op, items, layout);
      for (size_t which = 1; which < 4; ++which) {
        expect_equal_bits(results[which][2], results[0][2],
                          fmt::format("{} x {} over {}, variant {}", rows, cols, depth, which));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, GroupedMatmulTest,
                         ::testing::Combine(::testing::ValuesIn(backend_names()), ::testing::Bool(),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return fmt::format("{}{}{}", std::get<0>(info.param),
                                              std::get<1>(info.param) ? "_ta" : "",
                                              std::get<2>(info.param) ? "_tb" : "");
                         });

}  // namespace
}  // namespace coppice::contract
