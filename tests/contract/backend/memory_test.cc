// Buffers and the moving of bytes, on every backend.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/error.h"
#include "tests/contract/backend/arrays.h"
#include "tests/contract/backend/device.h"

namespace coppice::contract {
namespace {

class MemoryTest : public ::testing::TestWithParam<std::string> {
 protected:
  Device device_{GetParam()};
};

TEST_P(MemoryTest, BuffersAreAlignedAndCounted) {
  const size_t before = device_->allocated_bytes();
  size_t peak = 0;
  {
    std::vector<Buffer> buffers;
    size_t asked = 0;
    for (size_t bytes : {0, 1, 63, 64, 65, 4000, 1 << 20, (1 << 22) + 1}) {
      buffers.push_back(device_->allocate(bytes));
      asked += bytes;
      EXPECT_EQ(buffers.back().bytes(), bytes);
      EXPECT_FALSE(buffers.back().empty());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffers.back().data()) % 64, 0u);
    }
    EXPECT_GE(device_->allocated_bytes(), before + asked);
    peak = device_->peak_bytes();
    EXPECT_GE(peak, before + asked);
  }
  EXPECT_EQ(device_->allocated_bytes(), before);
  EXPECT_EQ(device_->peak_bytes(), peak);
}

TEST_P(MemoryTest, WeightsAreCountedWhileTheyLive) {
  const size_t before = device_->allocated_bytes();
  Random random(1);
  const Array values = uniform(65, 130, random);
  auto weight = device_->prepare_weight(values.view(), DType::kF32);
  EXPECT_EQ(weight->out(), 65);
  EXPECT_EQ(weight->in(), 130);
  EXPECT_GE(weight->bytes(), size_t(65 * 130 * 2));
  EXPECT_GE(device_->allocated_bytes(), before + weight->bytes());
  weight.reset();
  EXPECT_EQ(device_->allocated_bytes(), before);
}

TEST_P(MemoryTest, ManyShortLivedBuffersLeaveNothingBehind) {
  Random random(7);
  const size_t before = device_->allocated_bytes(), peak = device_->peak_bytes();  // of the start-up check
  std::vector<Buffer> alive;
  for (int i = 0; i < 3000; ++i) {
    const size_t bytes = random.below(200000);
    alive.push_back(device_->allocate(bytes));
    device_->fill(alive.back().matrix(1, int64_t(bytes / 4)), 1);
    if (alive.size() > 20) alive.erase(alive.begin() + int64_t(random.below(alive.size())));
  }
  alive.clear();
  EXPECT_EQ(device_->allocated_bytes(), before);
  EXPECT_LT(device_->peak_bytes(), std::max(peak + 1, before + size_t(22) * 230000));
}

TEST_P(MemoryTest, ExhaustionNamesTheBytes) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  const std::vector<size_t> sizes = {
      SIZE_MAX};  // the sanitizer ends the program where an allocator returns null
#else
  const std::vector<size_t> sizes = {size_t(1) << 46, size_t(1) << 60, SIZE_MAX};
#endif
  for (size_t bytes : sizes) {
    try {
      const Buffer buffer = device_->allocate(bytes);
      FAIL() << "allocated";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kExhausted);
      EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(bytes)));
    }
  }
}

TEST_P(MemoryTest, BytesGoUpAndComeBackThroughViews) {
  Random random(3);
  for (DType dtype : {DType::kF32, DType::kI32, DType::kBF16, DType::kF16, DType::kI64, DType::kU8}) {
    Array array(5, 7, dtype);
    for (std::byte& byte : array.bytes) byte = std::byte(random.next());
    const Buffer buffer = device_->allocate(9 * 11 * dtype_size(dtype));
    const Matrix view = buffer.matrix(9, 11, dtype).row_range(2, 5).column_range(3, 7);
    device_->upload(array.bytes.data(), view);
    Array back(5, 7, dtype);
    device_->download(view, back.bytes.data());
    expect_equal_bits(back, array, std::string(dtype_name(dtype)));
  }
}

TEST_P(MemoryTest, CopyKeepsTheBitsOfEveryDtype) {
  Random random(4);
  for (DType dtype : {DType::kF32, DType::kI32, DType::kBF16, DType::kF16, DType::kI64, DType::kU8}) {
    Array array(33, 17, dtype);
    for (std::byte& byte : array.bytes) byte = std::byte(random.next());  // NaN of all kinds among them
    const Buffer from = device_->allocate(array.bytes.size()), to = device_->allocate(2 * array.bytes.size());
    const UnaryItem item = {from.matrix(33, 17, dtype), to.matrix(33, 34, dtype).column_range(5, 17)};
    device_->upload(array.bytes.data(), item.x);
    device_->copy({&item, 1});
    Array back(33, 17, dtype);
    device_->download(item.y, back.bytes.data());
    expect_equal_bits(back, array, std::string(dtype_name(dtype)));
  }
}

// Of denormals a device may keep no more than the sign: then of all.
TEST_P(MemoryTest, CopyRoundsToBfloat16AndWidensIt) {
  Random random(5);
  Array one(1, 1);
  one.at(0, 0) = 1e-39f;
  const Buffer exact = device_->allocate(sizeof(float)), half = device_->allocate(sizeof(uint16_t));
  const Matrix single = exact.matrix(1, 1), single_rounded = half.matrix(1, 1, DType::kBF16);
  device_->upload(one.bytes.data(), single);
  for (const UnaryItem& way : {UnaryItem{single, single_rounded}, UnaryItem{single_rounded, single}})
    device_->copy({&way, 1});
  device_->download(single, one.bytes.data());
  const bool flushes = one.at(0, 0) == 0;
  for (int64_t cols : {1, 15, 16, 17, 33, 100}) {
    Array array(7, cols);
    for (std::byte& byte : array.bytes) byte = std::byte(random.next());  // NaN of all kinds among them
    const Buffer from = device_->allocate(array.bytes.size()), to = device_->allocate(2 * array.bytes.size());
    const Matrix x = from.matrix(7, cols),
                 rounded = to.matrix(7, 2 * cols, DType::kBF16).column_range(1, cols);
    device_->upload(array.bytes.data(), x);
    const std::vector<UnaryItem> there = {{x, rounded}}, back = {{rounded, x}};
    device_->copy(there);
    device_->copy(back);
    Array expected(7, cols), found(7, cols);
    device_->download(x, found.bytes.data());
    for (int64_t r = 0; r < 7; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const float value = array.at(r, c);
        const bool flushed = flushes && std::fpclassify(value) == FP_SUBNORMAL;
        expected.at(r, c) = flushed ? std::copysign(0.0f, value) : round_to_bf16(value);
      }
    }
    expect_equal_bits(found, expected, fmt::format("{} columns", cols));
  }
}

TEST_P(MemoryTest, FillTouchesItsViewAlone) {
  for (int64_t cols : {20, 140001}) {
    const Buffer buffer = device_->allocate(size_t(6 * cols) * sizeof(float));
    const Matrix whole = buffer.matrix(6, cols);
    device_->fill(whole, 3);
    device_->fill(whole.row_range(1, 4).column_range(1, cols - 3), -0.5f);
    Array back(6, cols), expected = filled(6, cols, 3);
    for (int64_t r = 1; r < 5; ++r)
      for (int64_t c = 1; c < cols - 2; ++c) expected.at(r, c) = -0.5f;
    device_->download(whole, back.bytes.data());
    expect_equal_bits(back, expected, fmt::format("{} columns", cols));
  }
}

TEST_P(MemoryTest, WhatWasHandedOverMayChangeAfterTheCall) {
  Array array = filled(4, 64, 1);
  const Buffer buffer = device_->allocate(array.bytes.size());
  const Matrix matrix = buffer.matrix(4, 64);
  device_->upload(array.bytes.data(), matrix);
  std::fill_n(array.f(), array.size(), 2.0f);
  std::vector<UnaryItem> items = {{matrix, matrix}};
  device_->add(items);
  items.clear();
  device_->download(matrix, array.bytes.data());
  expect_equal_bits(array, filled(4, 64, 2), "1 + 1");
}

INSTANTIATE_TEST_SUITE_P(Backends, MemoryTest, ::testing::ValuesIn(backend_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace coppice::contract
