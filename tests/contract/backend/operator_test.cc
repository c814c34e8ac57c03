// What every operator of every backend must hold: see the table in operators.h. Values are compared with
// kernels/ref, which itself is compared with independent formulas in reference_test.cc.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "tests/contract/backend/device.h"
#include "tests/contract/backend/operators.h"
#include "tests/contract/backend/tolerance.h"

namespace coppice::contract {
namespace {

constexpr uint64_t kSeed = 20240229;

class OperatorTest : public ::testing::TestWithParam<std::tuple<std::string, Family>> {
 protected:
  std::string backend_name() const { return std::get<0>(GetParam()); }
  std::vector<Operator> table() const { return operators(std::get<1>(GetParam())); }

  // body(op, size, item) for every operator and size, until a failure.
  template <typename Body>
  void for_each_size(const Body& body) {
    for (const Operator& op : table()) {
      Random random(kSeed);
      for (const Size& size : op.sizes) {
        SCOPED_TRACE(fmt::format("{} {} x {}", op.name, size.rows, size.cols));
        body(op, size, op.make(size, random));
        if (HasFailure()) return;
      }
    }
  }
};

class ValueTest : public OperatorTest {};

// Pointers into the item: what reads only may pass a const one.
template <typename AnItem>
auto float_rows_in(AnItem& item) {
  std::vector<decltype(&item[0].array)> arrays;
  for (auto& operand : item) {
    const bool in = operand.use == Use::kRowIn || operand.use == Use::kRowInOut;
    if (in && operand.array.dtype == DType::kF32 && operand.array.size() > 0)
      arrays.push_back(&operand.array);
  }
  return arrays;
}

// Only what has rows: sums over rows and whole operands are compared elsewhere.
void expect_rows_equal(const Item& item, const std::vector<Array>& part, const std::vector<Array>& whole,
                       const std::vector<int64_t>& rows) {
  for (size_t o = 0; o < item.size(); ++o) {
    if (is_row(item[o].use))
      expect_equal_bits(part[o], take_rows(whole[o], rows), fmt::format("operand {}", o));
  }
}

std::vector<std::vector<int64_t>> companies(int64_t rows) {
  std::vector<int64_t> all(static_cast<size_t>(rows));
  std::iota(all.begin(), all.end(), 0);
  std::vector<int64_t> turned = all, backwards(all.rbegin(), all.rend()), twice = all;
  std::rotate(turned.begin(), turned.begin() + rows / 2, turned.end());
  twice.insert(twice.end(), all.begin(), all.end());
  const std::vector<int64_t> middle(all.begin() + rows / 3, all.end() - rows / 5);
  return {{0}, {rows - 1}, {rows / 2}, {rows - 1, 0}, middle, turned, backwards, twice};
}

std::vector<Item> three_items(const Operator& op, Random& random) {
  // Items of one call share what the operator gives once: for attention the size of a head, which is a size's
  // cols.
  const size_t middle = op.sizes.size() / 2;
  const int64_t cols = op.sizes[middle].cols;
  return {op.make({op.sizes[middle].rows, cols}, random), op.make({5, cols}, random),
          op.make({1, cols}, random)};
}

TEST_P(ValueTest, AgreeWithTheReference) {
  Device device(backend_name()), reference("ref", 1);
  for_each_size([&](const Operator& op, Size, const Item& item) {
    expect_close(run(*device, op, {item}), run(*reference, op, {item}), op.tolerance, op.magnitudes);
  });
}

TEST_P(ValueTest, AgreeWithTheReferenceAtInfinitiesAndNan) {
  Device device(backend_name()), reference("ref", 1);
  for (const Operator& op : table()) {
    Random random(kSeed);
    Item clean = op.make({9, 33}, random);
    for (size_t o = 0; o < float_rows_in(clean).size(); ++o) {
      for (float special : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
        SCOPED_TRACE(fmt::format("{}: {} in input {}", op.name, special, o));
        Item item = clean;
        Array& array = *float_rows_in(item)[o];
        array.at(4, std::min<int64_t>(2, array.cols - 1)) = special;
        expect_close(run(*device, op, {item}), run(*reference, op, {item}), op.tolerance, op.magnitudes);
      }
    }
  }
}

// A padded row or column of a tile must not carry a NaN to where the formula has none. Attention may: tiles
// multiply what a query does not see by zero, so a NaN may reach all rows of its sequence (but no other:
// NanStaysInItsItem).
TEST_P(ValueTest, NanInAnItemReachesWhatItReachesInTheReference) {
  Device device(backend_name()), reference("ref", 1);
  for (const Operator& op : table()) {
    if (op.spreads_nan) continue;
    Random random(kSeed);
    const Item clean = op.make({21, 40}, random);
    for (size_t o = 0; o < clean.size(); ++o) {
      if (clean[o].use != Use::kWholeIn || clean[o].array.dtype != DType::kF32 || clean[o].array.size() == 0)
        continue;
      SCOPED_TRACE(fmt::format("{}: NaN in operand {}", op.name, o));
      Item item = clean;
      item[o].array.at(item[o].array.rows / 2, item[o].array.cols / 2) =
          std::numeric_limits<float>::quiet_NaN();
      expect_close(run(*device, op, {item}), run(*reference, op, {item}), op.tolerance, op.magnitudes);
    }
  }
}

TEST_P(ValueTest, KeepDenormals) {
  Device device(backend_name()), reference("ref", 1);
  for (const Operator& op : table()) {
    if (op.flushes_denormals) continue;
    Random random(kSeed);
    Item item = op.make({9, 33}, random);
    for (Array* array : float_rows_in(item)) {
      for (int64_t i = 0; i < array->size(); ++i) array->f()[i] *= 1e-39f;
    }
    SCOPED_TRACE(op.name);
    const auto magnitudes =
        float_rows_in(item).empty() ? op.magnitudes : std::vector<double>();  // nothing was made small
    expect_close(run(*device, op, {item}), run(*reference, op, {item}), kDenormalTolerance, magnitudes);
  }
}

TEST_P(OperatorTest, ViewsGiveTheBitsOfDenseArraysAndKeepWhatLiesAround) {
  Device device(backend_name());
  for_each_size([&](const Operator& op, Size, const Item& item) {
    expect_equal_bits(run(*device, op, {item}, Layout::kViews), run(*device, op, {item}));
  });
}

// What is held as BF16 is what F32 operands of the same values give, and take, rounded.
TEST_P(OperatorTest, Bfloat16OperandsGiveTheBitsOfFloats) {
  Device device(backend_name());
  for_each_size([&](const Operator& op, Size, const Item& item) {
    if (op.rounded.empty()) return;
    Operator floats = op;
    floats.rounded.clear();
    Item of_floats = item;
    for (size_t o : op.rounded) of_floats[o].array = widened(in_dtype(item[o].array, DType::kBF16));
    Results expected = run(*device, floats, {of_floats});
    for (size_t o : op.rounded) expected[0][o] = widened(in_dtype(expected[0][o], DType::kBF16));
    expect_equal_bits(run(*device, op, {item}), expected);
  });
}

TEST_P(OperatorTest, ThreadsShowInNoBits) {
  Device one(backend_name(), 1), two(backend_name(), 2), three(backend_name(), 3);
  for_each_size([&](const Operator& op, Size, const Item& item) {
    const Results expected = run(*one, op, {item});
    expect_equal_bits(run(*two, op, {item}), expected);
    expect_equal_bits(run(*three, op, {item}), expected);
  });
}

TEST_P(OperatorTest, RowsHaveEqualBitsInAnyCompany) {
  Device device(backend_name());
  for_each_size([&](const Operator& op, Size size, const Item& item) {
    if (size.rows < 5 || float_rows_in(item).empty()) return;
    const Results whole = run(*device, op, {item});
    for (const std::vector<int64_t>& rows : companies(size.rows)) {
      const Item part = take_rows(item, rows);
      SCOPED_TRACE(fmt::format("{} rows from row {}", rows.size(), rows[0]));
      expect_rows_equal(item, run(*device, op, {part})[0], whole[0], rows);
    }
  });
}

// One row's NaN stays in that row, wherever it is.
TEST_P(OperatorTest, NanStaysInItsRow) {
  Device device(backend_name());
  for (const Operator& op : table()) {
    Random random(kSeed);
    Item clean = op.make({37, 33}, random);
    const Results expected = run(*device, op, {clean});
    for (size_t o = 0; o < float_rows_in(clean).size(); ++o) {
      for (int64_t bad : {0, 17, 36}) {
        SCOPED_TRACE(fmt::format("{}: row {} of input {}", op.name, bad, o));
        Item item = clean;
        Array& array = *float_rows_in(item)[o];
        std::fill_n(&array.at(bad, 0), array.cols, std::numeric_limits<float>::quiet_NaN());
        std::vector<int64_t> others;
        for (int64_t r = 0; r < 37; ++r) {
          if (r != bad) others.push_back(r);
        }
        const Results actual = run(*device, op, {item});
        std::vector<Array> without_bad;
        for (size_t p = 0; p < clean.size(); ++p) {
          without_bad.push_back(is_row(clean[p].use) ? take_rows(actual[0][p], others) : actual[0][p]);
        }
        expect_rows_equal(clean, without_bad, expected[0], others);
      }
    }
  }
}

TEST_P(OperatorTest, ItemsHaveEqualBitsAloneAndTogether) {
  Device device(backend_name());
  for (const Operator& op : table()) {
    if (!op.grouped) continue;
    SCOPED_TRACE(op.name);
    Random random(kSeed);
    const std::vector<Item> items = three_items(op, random);
    Results alone;
    for (const Item& item : items) alone.push_back(run(*device, op, {item})[0]);
    expect_equal_bits(run(*device, op, items), alone);
    const std::vector<Item> other_order = {items[2], items[0], items[1]};
    expect_equal_bits(run(*device, op, other_order), {alone[2], alone[0], alone[1]});
  }
}

TEST_P(OperatorTest, NanStaysInItsItem) {
  Device device(backend_name());
  for (const Operator& op : table()) {
    if (!op.grouped) continue;
    SCOPED_TRACE(op.name);
    Random random(kSeed);
    std::vector<Item> items = three_items(op, random);
    const Results clean = run(*device, op, items);
    for (Operand& operand : items[1]) {
      if (operand.array.dtype == DType::kF32)
        operand.array = filled(operand.array.rows, operand.array.cols, NAN);
    }
    Results actual = run(*device, op, items);
    actual[1] = clean[1];
    expect_equal_bits(actual, clean);
  }
}

TEST_P(OperatorTest, NoRowsAndNoItemsAreNothingToDo) {
  Device device(backend_name());
  for (const Operator& op : table()) {
    SCOPED_TRACE(op.name);
    if (op.grouped) op.run(*device, {});
    Random random(kSeed);
    const Item none = op.make({0, 8}, random);
    for (Layout layout : {Layout::kDense, Layout::kViews}) {
      const Results results = run(*device, op, {none}, layout);
      for (size_t o = 0; o < none.size(); ++o) {  // sums over no rows leave what they are added to
        const Array& array = none[o].array;
        const Array expected = is_rounded(op, o) ? widened(in_dtype(array, DType::kBF16)) : array;
        expect_close(results[0][o], expected, 0, fmt::format("operand {}", o));
      }
    }
  }
}

std::string test_name(const ::testing::TestParamInfo<std::tuple<std::string, Family>>& info) {
  return std::get<0>(info.param) + "_" + family_name(std::get<1>(info.param));
}

std::vector<std::string> backends_but_ref() {
  std::vector<std::string> names = backend_names();
  std::erase(names, "ref");
  return names;
}

INSTANTIATE_TEST_SUITE_P(Backends, OperatorTest,
                         ::testing::Combine(::testing::ValuesIn(backend_names()),
                                            ::testing::ValuesIn(kFamilies)),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Backends, ValueTest,
                         ::testing::Combine(::testing::ValuesIn(backends_but_ref()),
                                            ::testing::ValuesIn(kFamilies)),
                         test_name);

}  // namespace
}  // namespace coppice::contract
