#include "common/transport/block_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

#include "common/base/error.h"

namespace coppice {
namespace {

constexpr size_t kMiB = size_t(1) << 20;

TEST(BlockPoolTest, BlocksAreWholePages) {
  const auto pool = BlockPool::create(8 * kMiB);
  for (const size_t bytes :
       {size_t(0), size_t(1), size_t(4096), size_t(4097), size_t(65536), size_t(65537), kMiB + 3}) {
    const auto block = pool->take(bytes);
    EXPECT_EQ(block->bytes(), bytes);
    EXPECT_EQ(block->fill(), block->data());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block->data()) % 4096, 0u);
    if (bytes > 0) std::memset(block->fill(), 1, bytes);
  }
}

TEST(BlockPoolTest, ABlockIsUsedAgainForOneOfAboutItsSize) {
  const auto pool = BlockPool::create(8 * kMiB);
  const std::byte* first = pool->take(2 * kMiB)->data();
  EXPECT_EQ(pool->kept_bytes(), 2 * kMiB);
  {
    const auto again = pool->take(2 * kMiB - 100);
    EXPECT_EQ(again->data(), first);
    EXPECT_EQ(pool->kept_bytes(), 0u);
    EXPECT_NE(pool->take(2 * kMiB)->data(), first) << "two hold it at a time";
  }
  const size_t kept = pool->kept_bytes();
  EXPECT_EQ(kept, 4 * kMiB);
  const auto much_smaller = pool->take(kMiB / 2);
  EXPECT_EQ(pool->kept_bytes(), kept);
}

TEST(BlockPoolTest, WhatIsKeptIsBounded) {
  const auto pool = BlockPool::create(3 * kMiB);
  std::vector<std::unique_ptr<ReceivedBlock>> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(pool->take(kMiB));
  blocks.push_back(pool->take(10 * kMiB));
  blocks.push_back(pool->take(1000));
  EXPECT_EQ(pool->kept_bytes(), 0u);
  blocks.clear();
  EXPECT_EQ(pool->kept_bytes(), 3 * kMiB);
}

TEST(BlockPoolTest, ABlockMayOutliveThePool) {
  auto pool = BlockPool::create(3 * kMiB);
  const auto block = pool->take(kMiB);
  pool.reset();
  std::memset(block->fill(), 1, block->bytes());
}

TEST(BlockPoolTest, WithoutMemoryItSaysHowMuchWasWanted) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer ends the program where the allocator would return nothing";
#endif
  const auto pool = BlockPool::create(0);
  try {
    pool->take(size_t(1) << 60);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kExhausted);
    EXPECT_NE(std::string(error.what()).find("1152921504606846976 bytes"), std::string::npos);
  }
}

}  // namespace
}  // namespace coppice
