#include "common/tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace coppice {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The nearest of all bfloat16 values, the even one of two: by search, not by bits.
uint16_t nearest_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t low = uint16_t(bits >> 16), high = uint16_t(low + 1);  // towards zero, away from it
  const double next = (high & 0x7fff) == 0x7f80 ? std::copysign(0x1p128, value) : double(from_bf16(high));
  const double below = std::abs(double(value) - from_bf16(low)), above = std::abs(next - value);
  if (below != above) return below < above ? low : high;
  return low % 2 == 0 ? low : high;
}

TEST(Bf16Test, EveryValueComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_bf16(uint16_t(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(round_to_bf16(value)));
    } else {
      ASSERT_EQ(to_bf16(value), bits);
    }
  }
}

TEST(Bf16Test, RoundsToTheNearestAndTiesToEven) {
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (uint32_t low : {0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float value = std::bit_cast<float>(high << 16 | low);
      if (!std::isfinite(value)) continue;
      ASSERT_EQ(to_bf16(value), nearest_bf16(value)) << value;
    }
  }
}

TEST(Bf16Test, OverflowsToInfinityAndKeepsNan) {
  EXPECT_EQ(round_to_bf16(std::numeric_limits<float>::max()), kInfinity);
  EXPECT_EQ(round_to_bf16(-kInfinity), -kInfinity);
  // A NaN whose payload lies in the bits that are cut off must not become infinite.
  EXPECT_TRUE(std::isnan(round_to_bf16(std::bit_cast<float>(0x7f800001u))));
  EXPECT_TRUE(std::isnan(round_to_bf16(std::bit_cast<float>(0xffffffffu))));
}

// IEEE 754 binary16: (-1)^s * 2^(e-15) * (1 + f/1024), subnormal 2^-14 * f/1024.
TEST(F16Test, EveryValueIsItsFormula) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = int(bits >> 10 & 31), fraction = int(bits & 1023);
    const float sign = bits & 0x8000 ? -1.0f : 1.0f, value = from_f16(uint16_t(bits));
    ASSERT_EQ(std::signbit(value), bits >= 0x8000);
    if (exponent == 31) {
      ASSERT_TRUE(fraction ? std::isnan(value) : value == sign * kInfinity);
    } else if (exponent == 0) {
      ASSERT_EQ(value, sign * std::ldexp(float(fraction), -24));
    } else {
      ASSERT_EQ(value, sign * std::ldexp(float(1024 + fraction), exponent - 25));
    }
  }
}

TEST(DTypeTest, SizesAndNamesAreThoseOfSafetensors) {
  EXPECT_EQ(dtype_size(DType::kF32), 4u);
  EXPECT_EQ(dtype_size(DType::kF16), 2u);
  EXPECT_EQ(dtype_size(DType::kBF16), 2u);
  EXPECT_EQ(dtype_size(DType::kI32), 4u);
  EXPECT_EQ(dtype_size(DType::kI64), 8u);
  EXPECT_EQ(dtype_size(DType::kU8), 1u);
  EXPECT_EQ(dtype_name(DType::kF32), "F32");
  EXPECT_EQ(dtype_name(DType::kF16), "F16");
  EXPECT_EQ(dtype_name(DType::kBF16), "BF16");
  EXPECT_EQ(dtype_name(DType::kI32), "I32");
  EXPECT_EQ(dtype_name(DType::kI64), "I64");
  EXPECT_EQ(dtype_name(DType::kU8), "U8");
}

}  // namespace
}  // namespace coppice
