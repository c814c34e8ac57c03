#include "kernels/host_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace coppice {
namespace {

constexpr size_t kMebi = size_t(1) << 20;

TEST(HostMemoryTest, GivesAFreedBlockOfTheSizeAgain) {
  HostMemory memory("test");
  std::byte* const first = memory.take(5 * kMebi);
  memory.give_back(first, 5 * kMebi);
  EXPECT_GE(memory.kept_bytes(), 5 * kMebi);
  EXPECT_EQ(memory.take(5 * kMebi), first);
  EXPECT_EQ(memory.kept_bytes(), 0u);
  memory.give_back(first, 5 * kMebi);
}

TEST(HostMemoryTest, NeverHoldsMoreThanThePeakOfWhatWasInUse) {
  HostMemory memory("test");
  for (size_t mebi = 1; mebi < 300; mebi += 7) {  // no size twice: nothing can be reused
    std::byte* const block = memory.take(mebi * kMebi);
    EXPECT_LE(memory.in_use_bytes() + memory.kept_bytes(),
              std::max(memory.peak_bytes(), HostMemory::kSmallestCache));
    memory.give_back(block, mebi * kMebi);
    EXPECT_LE(memory.kept_bytes(), std::max(memory.peak_bytes(), HostMemory::kSmallestCache));
  }
  EXPECT_EQ(memory.in_use_bytes(), 0u);
}

TEST(HostMemoryTest, WastesAtMostAnEighth) {
  HostMemory memory("test");
  for (size_t bytes = 4096; bytes < 100000; bytes += 97) {
    std::byte* const block = memory.take(bytes);
    EXPECT_GE(memory.in_use_bytes(), bytes);
    EXPECT_LE(memory.in_use_bytes(), bytes + bytes / 8 + HostMemory::kAlignment);
    memory.give_back(block, bytes);
  }
}

TEST(HostMemoryTest, BlocksInUseNeverOverlap) {
  HostMemory memory("test");
  std::vector<std::pair<std::byte*, size_t>> blocks;
  for (size_t i = 0; i < 200; ++i) {
    const size_t bytes = i * 37 % 3000;
    blocks.emplace_back(memory.take(bytes), bytes);
    std::fill_n(blocks.back().first, bytes, std::byte(i));
    if (i % 3 == 2) {
      memory.give_back(blocks[i / 3].first, blocks[i / 3].second);
      blocks[i / 3].second = 0;
      blocks[i / 3].first = memory.take(0);
    }
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (size_t b = 0; b < blocks[i].second; ++b) ASSERT_EQ(blocks[i].first[b], std::byte(i));
    memory.give_back(blocks[i].first, blocks[i].second);
  }
}

}  // namespace
}  // namespace coppice
