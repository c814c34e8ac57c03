// What items share: accumulation into the same memory in the order of the items, dropout's words, repeated
// indices, and the squared norm.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/contract/backend/device.h"
#include "tests/contract/backend/operators.h"
#include "tests/contract/backend/tolerance.h"

namespace coppice::contract {
namespace {

class OrderTest : public ::testing::TestWithParam<std::string> {
 protected:
  // An array on the device, for as long as the test.
  Matrix put(const Array& array) {
    buffers_.push_back(device_->allocate(array.bytes.size()));
    const Matrix matrix = buffers_.back().matrix(array.rows, array.cols, array.dtype);
    device_->upload(array.bytes.data(), matrix);
    return matrix;
  }
  Array get(const Matrix& matrix) {
    Array array(matrix.rows, matrix.cols, matrix.dtype);
    device_->download(matrix, array.bytes.data());
    return array;
  }
  Array random(int64_t rows, int64_t cols, float scale = 1) { return uniform(rows, cols, random_, scale); }

  // call(items, sum) accumulates items [first, last) into sum: all in one call must give the bits of one
  // after another.
  template <typename Call>
  void expect_item_order(const Array& start, size_t items, const Call& call) {
    const Matrix together = put(start), in_turn = put(start), backwards = put(start);
    call(0, items, together);
    for (size_t i = 0; i < items; ++i) call(i, i + 1, in_turn);
    for (size_t i = items; i-- > 0;) call(i, i + 1, backwards);
    expect_equal_bits(get(together), get(in_turn), "items in one call");
    EXPECT_NE(get(together).bytes, get(backwards).bytes) << "the order cannot be seen in these values";
  }

  Random random_{42};
  Device device_{GetParam(), 3};
  std::vector<Buffer> buffers_;  // after their device, so that they go first
};

TEST_P(OrderTest, GroupedMatmulAccumulatesInItemOrder) {
  for (DType compute : {DType::kF32, DType::kBF16}) {
    std::vector<MatmulItem> items;
    for (int i = 0; i < 5; ++i) {
      const int64_t depth = 3 + 20 * i;
      items.push_back({put(random(depth, 33, 10)), put(random(depth, 70)), {}, true, false, 0.3f, true});
    }
    expect_item_order(random(33, 70), items.size(), [&](size_t first, size_t last, Matrix sum) {
      std::vector<MatmulItem> part(items.begin() + int64_t(first), items.begin() + int64_t(last));
      for (MatmulItem& item : part) item.c = sum;
      device_->grouped_matmul(part, compute);
    });
  }
}

TEST_P(OrderTest, ColumnSumsAccumulateInItemOrder) {
  std::vector<Matrix> x, dy;
  for (int64_t rows : {7, 1, 40, 3}) {
    x.push_back(put(random(rows, 50, 10)));
    dy.push_back(put(random(rows, 50)));
  }
  const Matrix scale = put(random(1, 50));
  expect_item_order(random(1, 50), x.size(), [&](size_t first, size_t last, Matrix sum) {
    std::vector<ScaleColumnsBackwardItem> part;
    for (size_t i = first; i < last; ++i) part.push_back({x[i], scale, dy[i], {}, sum});
    device_->scale_columns_backward(part);
  });
  expect_item_order(random(1, 50), x.size(), [&](size_t first, size_t last, Matrix sum) {
    std::vector<BiasItem> part;
    for (size_t i = first; i < last; ++i) part.push_back({sum, x[i]});
    device_->add_bias_backward(part);
  });
}

TEST_P(OrderTest, AddAndDropoutAccumulateInItemOrder) {
  std::vector<Matrix> x;
  for (int i = 0; i < 4; ++i) x.push_back(put(random(9, 33, 10)));
  expect_item_order(random(9, 33), x.size(), [&](size_t first, size_t last, Matrix sum) {
    std::vector<UnaryItem> part;
    for (size_t i = first; i < last; ++i) part.push_back({x[i], sum});
    device_->add(part);
  });
  const Matrix ids = put(indices(9, 100, random_, 2));
  expect_item_order(random(9, 33), x.size(), [&](size_t first, size_t last, Matrix sum) {
    std::vector<DropoutItem> part;
    for (size_t i = first; i < last; ++i) part.push_back({x[i], sum, ids, i, 0.25f, true});
    device_->dropout(part);
  });
}

TEST_P(OrderTest, AttentionAccumulatesPrefixGradientsInItemOrder) {
  for (DType compute : {DType::kF32, DType::kBF16}) {
    const AttentionShape shape{4, 2, 16, 0.25f};
    const Matrix prefix_k = put(random(6, 32)), prefix_v = put(random(6, 32)), other = put(random(6, 32));
    std::vector<AttentionBackwardItem> items;
    for (int64_t rows : {5, 70, 1, 33}) {
      AttentionItem forward{
          put(random(rows, 64)), put(random(rows, 32)), put(random(rows, 32)), prefix_k, prefix_v, 0,
          put(random(rows, 64)), put(random(rows, 4))};
      items.push_back({forward,
                       put(random(rows, 64, 10)),
                       put(random(rows, 64)),
                       put(random(rows, 32)),
                       put(random(rows, 32)),
                       {},
                       {}});
      device_->attention(shape, {&forward, 1}, compute);
    }
    for (bool keys : {true, false}) {
      expect_item_order(random(6, 32), items.size(), [&](size_t first, size_t last, Matrix sum) {
        std::vector<AttentionBackwardItem> part(items.begin() + int64_t(first),
                                                items.begin() + int64_t(last));
        for (AttentionBackwardItem& item : part) {
          item.dprefix_k = keys ? sum : other;
          item.dprefix_v = keys ? other : sum;
        }
        device_->attention_backward(shape, part, compute);
      });
    }
  }
}

// The sum over repeated indices is defined to the bit: rows in ascending order, one after another.
TEST_P(OrderTest, ScatterAddsRepeatedIndicesInRowOrder) {
  const Array which = indices(200, 5, random_), rows = random(200, 37, 10);
  Array expected = random(5, 37);
  const Matrix table = put(expected);
  const GatherItem items[] = {{table, put(which).row_range(0, 90), put(rows).row_range(0, 90)},
                              {table, put(which).row_range(90, 110), put(rows).row_range(90, 110)}};
  device_->scatter_add_rows(items);
  for (int64_t r = 0; r < 200; ++r) {
    for (int64_t c = 0; c < 37; ++c) expected.at(which.i()[r], c) += rows.at(r, c);
  }
  expect_equal_bits(get(table), expected, "table");
}

TEST_P(OrderTest, GatherRepeatsAndConverts) {
  const Array table = random(11, 37), which = indices(50, 11, random_);
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Array stored = dtype == DType::kF32 ? table : in_dtype(table, dtype);
    const Matrix rows = put(filled(50, 37, NAN));
    const GatherItem item{put(stored), put(which), rows};
    device_->gather_rows({&item, 1});
    const Tensor values = to_f32(stored.view());
    Array expected(50, 37);
    for (int64_t r = 0; r < 50; ++r)
      std::copy_n(&values.values[size_t(which.i()[r]) * 37], 37, &expected.at(r, 0));
    expect_equal_bits(get(rows), expected, std::string(dtype_name(dtype)));
  }
}

TEST_P(OrderTest, DropoutKeepsWhatPhiloxSays) {
  Array ids(6, 2, DType::kI32);
  const int32_t places[] = {0, 0, 0,      1, 1, 0, 70000, 131071, std::numeric_limits<int32_t>::max(),
                            5, 3, 1 << 30};
  std::copy_n(places, 12, ids.i());
  for (uint64_t key : {uint64_t(0), uint64_t(0xfedcba9876543210)}) {
    for (float p : {0.0f, 0.05f, 0.5f, 0.999f}) {
      for (int64_t cols : {1, 3, 4, 5, 15, 16, 17, 33, 1000}) {
        const Matrix y = put(filled(6, cols, NAN));
        const DropoutItem item{put(filled(6, cols, 1)), y, put(ids), key, p, false};
        device_->dropout({&item, 1});
        const Array actual = get(y);
        const auto threshold = uint64_t(std::llround(double(p) * 4294967296.0));
        for (int64_t r = 0; r < 6; ++r) {
          for (int64_t f = 0; f < cols; ++f) {
            const auto words =
                philox(key, {uint32_t(f / 4), uint32_t(ids.i()[2 * r + 1]), uint32_t(ids.i()[2 * r]), 0});
            const bool kept = words[size_t(f % 4)] >= threshold;
            ASSERT_NEAR(actual.at(r, f), kept ? 1 / (1 - p) : 0, 1e-6 / (1 - p))
                << "p " << p << " row " << r << " " << f;
            if (!kept) {
              ASSERT_EQ(actual.at(r, f), 0);
            }
          }
        }
      }
    }
  }
}

TEST_P(OrderTest, SquaredNormIsOneNumberForAnyThreadsAndLayout) {
  Device one(GetParam(), 1);
  for (int64_t cols : {1, 7, 8, 33, 1000, 100001}) {
    const int64_t rows = cols > 1000 ? 2 : 9;
    const Array x = random(rows, cols, 1e3f);
    double expected = 0;
    for (int64_t i = 0; i < x.size(); ++i) expected += double(x.f()[i]) * x.f()[i];
    const double norm = device_->squared_norm(put(x));
    EXPECT_NEAR(norm, expected, 1e-12 * expected);
    const Buffer buffer = one->allocate(size_t(rows * (cols + 3)) * sizeof(float));
    const Matrix view = buffer.matrix(rows, cols + 3).column_range(1, cols);
    one->upload(x.bytes.data(), view);
    EXPECT_EQ(one->squared_norm(view), norm);
  }
  EXPECT_EQ(device_->squared_norm(put(Array(0, 5))), 0);
  EXPECT_TRUE(std::isnan(device_->squared_norm(put(filled(3, 5, NAN)))));
  EXPECT_EQ(device_->squared_norm(put(filled(1, 2, 1e30f))), 2 * double(1e30f) * 1e30f);
}

INSTANTIATE_TEST_SUITE_P(Backends, OrderTest, ::testing::ValuesIn(backend_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace coppice::contract
