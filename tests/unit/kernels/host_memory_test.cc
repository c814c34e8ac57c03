#include "kernels/host_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <utility>
#include <vector>

#include "common/base/random.h"

namespace coppice {
namespace {

constexpr size_t kMebi = size_t(1) << 20;

TEST(HostMemoryTest, GivesAFreedBlockAgain) {
  HostMemory memory("test");
  std::byte* const first = memory.take(5 * kMebi);
  memory.give_back(first, 5 * kMebi);
  EXPECT_EQ(memory.take(5 * kMebi), first);
  EXPECT_EQ(memory.held_bytes(), 5 * kMebi);
  memory.give_back(first, 5 * kMebi);
}

TEST(HostMemoryTest, HoldsNoMoreThanThePeakWhereBlocksGrow) {
  HostMemory memory("test");
  for (size_t mebi = 1; mebi < 300; mebi += 7) {
    std::byte* const block = memory.take(mebi * kMebi);
    EXPECT_EQ(memory.held_bytes(), memory.peak_bytes());
    memory.give_back(block, mebi * kMebi);
  }
  EXPECT_EQ(memory.in_use_bytes(), 0u);
  EXPECT_EQ(memory.held_bytes(), 295 * kMebi);
}

TEST(HostMemoryTest, NeighboursThatAreFreeBecomeOneBlock) {
  HostMemory memory("test");
  std::vector<std::byte*> blocks;
  for (int i = 0; i < 8; ++i) blocks.push_back(memory.take(kMebi));
  for (int i : {1, 5, 3, 2, 4}) memory.give_back(blocks[size_t(i)], kMebi);
  EXPECT_EQ(memory.take(5 * kMebi), blocks[1]);
  EXPECT_EQ(memory.held_bytes(), 8 * kMebi);
  memory.give_back(blocks[1], 5 * kMebi);
  for (int i : {0, 6, 7}) memory.give_back(blocks[size_t(i)], kMebi);
}

TEST(HostMemoryTest, WastesLessThanALineOfTheCache) {
  HostMemory memory("test");
  for (size_t bytes = 0; bytes < 100000; bytes += 97) {
    std::byte* const block = memory.take(bytes);
    EXPECT_GE(memory.in_use_bytes(), bytes);
    EXPECT_LE(memory.in_use_bytes(), bytes + HostMemory::kAlignment);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % HostMemory::kAlignment, 0u);
    memory.give_back(block, bytes);
  }
}

// As training does: for packs of any length, every layer keeps some blocks until its backward and needs
// others for a moment.
TEST(HostMemoryTest, PacksOfAnyLengthAskTheSystemForNothingOnceItIsWarm) {
  HostMemory memory("test");
  Random random(1);
  const auto pack = [&](size_t rows) {
    std::vector<std::pair<std::byte*, size_t>> kept;
    for (size_t layer = 0; layer < 12; ++layer) {
      std::vector<std::pair<std::byte*, size_t>> working;
      for (const size_t cols : {768, 768, 2048, 12, 768, 2048}) {
        kept.emplace_back(memory.take(rows * cols), rows * cols);
        working.emplace_back(memory.take(rows * (cols + 100)), rows * (cols + 100));
      }
      for (const auto& [block, bytes] : working) memory.give_back(block, bytes);
    }
    for (; !kept.empty(); kept.pop_back()) memory.give_back(kept.back().first, kept.back().second);
  };
  for (int i = 0; i < 3; ++i) pack(2048);
  const int64_t warm = memory.growths();
  for (int i = 0; i < 200; ++i) pack(1 + random.below(2048));
  EXPECT_EQ(memory.growths(), warm);
  EXPECT_LE(memory.held_bytes(), memory.peak_bytes() + memory.peak_bytes() / 10);
}

size_t resident_pages(std::byte* begin, size_t bytes) {
  std::vector<unsigned char> pages(bytes / 4096);
  EXPECT_EQ(::mincore(begin, bytes, pages.data()), 0);
  return size_t(std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }));
}

TEST(HostMemoryTest, PagesStayWhileAnyBlockIsInUse) {
  HostMemory memory("test");
  std::byte* const small = memory.take(4096);
  std::byte* const large = memory.take(32 * kMebi);
  std::fill_n(large, 32 * kMebi, std::byte(1));
  memory.give_back(large, 32 * kMebi);
  EXPECT_GE(resident_pages(small, 32 * kMebi), 32 * kMebi / 4096 - 1);
  memory.give_back(small, 4096);
  EXPECT_EQ(resident_pages(small, 32 * kMebi), 0u);
  EXPECT_EQ(memory.take(4096), small);
  *small = std::byte(2);
  memory.give_back(small, 4096);
}

size_t address_space_in_use() {
  size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * size_t(::sysconf(_SC_PAGESIZE));
}

// Limits of which none is a power of two of another, so that no machine's memory halves into all of them.
TEST(HostMemoryTest, LeavesOthersHalfOfALimitedAddressSpace) {
  constexpr size_t kOwn = 256 * kMebi;  // of the program
  if (address_space_in_use() > kOwn) GTEST_SKIP() << "a sanitizer takes more than there is to share";
  for (const size_t mebi : {3072, 4096, 5120}) {
    const auto child = [mebi] {
      const rlimit limit{mebi * kMebi, mebi * kMebi};
      if (::setrlimit(RLIMIT_AS, &limit) != 0) std::exit(2);
      HostMemory memory("test");
      memory.give_back(memory.take(kMebi), kMebi);
      const size_t others = mebi * kMebi / 2 - kOwn;
      void* const other = ::mmap(nullptr, others, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      std::exit(other == MAP_FAILED ? 1 : 0);
    };
    EXPECT_EXIT(child(), ::testing::ExitedWithCode(0), "") << mebi << " MiB";
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
