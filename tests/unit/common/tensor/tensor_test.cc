#include "common/tensor/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "common/base/error.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ShapeTest, CountsAndPrints) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({2, 3, 4}), 24);
  EXPECT_EQ(element_count({5, 0}), 0);
  EXPECT_EQ(shape_string({}), "[]");
  EXPECT_EQ(shape_string({2, 3}), "[2, 3]");
}

TEST(TensorTest, IsZeroAndViewsItsValues) {
  Tensor tensor({2, 3});
  EXPECT_THAT(tensor.values, ElementsAre(0, 0, 0, 0, 0, 0));
  tensor.values[4] = 1.5f;
  const TensorView view = tensor.view();
  EXPECT_EQ(view.dtype, DType::kF32);
  EXPECT_EQ(view.shape, (Shape{2, 3}));
  EXPECT_EQ(to_f32(view).values, tensor.values);
}

// A mapped file puts arrays at any offset.
TEST(TensorTest, ReadsValuesThatAreNotAligned) {
  std::byte bytes[13];
  const float floats[] = {1, -2, 3};
  std::memcpy(bytes + 1, floats, 12);
  EXPECT_THAT(to_f32({DType::kF32, {3}, {bytes + 1, 12}}).values, ElementsAre(1, -2, 3));
  const uint16_t halves[] = {0x3c00, 0xc000, 0x0001};  // 1, -2, 2^-24
  std::memcpy(bytes + 1, halves, 6);
  EXPECT_THAT(to_f32({DType::kF16, {3}, {bytes + 1, 6}}).values, ElementsAre(1, -2, 0x1p-24f));
  const uint16_t brains[] = {0x3f80, 0xc000, 0x0001};  // 1, -2, 2^-133
  std::memcpy(bytes + 1, brains, 6);
  EXPECT_THAT(to_f32({DType::kBF16, {3}, {bytes + 1, 6}}).values, ElementsAre(1, -2, 0x1p-133f));
}

TEST(TensorTest, RefusesIntegersByName) {
  const std::byte bytes[8] = {};
  try {
    to_f32({DType::kI64, {1}, bytes});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    EXPECT_THAT(error.what(), HasSubstr("I64"));
  }
}

}  // namespace
}  // namespace coppice
