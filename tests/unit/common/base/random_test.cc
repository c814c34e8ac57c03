#include "common/base/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

namespace coppice {
namespace {

// The known answers that Random123 publishes for philox4x32 with 10 rounds.
TEST(PhiloxTest, GivesTheKnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox(0, {0, 0, 0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(UINT64_MAX, {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(StreamKeyTest, EveryWordAndItsPlaceMatters) {
  std::set<uint64_t> keys;
  for (uint64_t seed : {uint64_t(0), uint64_t(1), UINT64_MAX}) {
    for (Purpose purpose : {Purpose::kInitialValue, Purpose::kDropout, Purpose::kShuffle}) {
      keys.insert(stream_key(seed, purpose, {}));
      keys.insert(stream_key(seed, purpose, {0}));
      keys.insert(stream_key(seed, purpose, {1}));
      keys.insert(stream_key(seed, purpose, {0, 0}));
      keys.insert(stream_key(seed, purpose, {0, 1}));
      keys.insert(stream_key(seed, purpose, {1, 0}));
      keys.insert(stream_key(seed, purpose, {uint64_t(1) << 32}));
    }
  }
  EXPECT_EQ(keys.size(), 3u * 3u * 7u);
  EXPECT_EQ(stream_key(7, Purpose::kDropout, {1, 2}), stream_key(7, Purpose::kDropout, {1, 2}));
}

// The test vectors of the FNV authors for the 64-bit FNV-1a.
TEST(NameHashTest, IsFnv1a) {
  EXPECT_EQ(name_hash(""), 0xcbf29ce484222325u);
  EXPECT_EQ(name_hash("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(name_hash("foobar"), 0x85944171f73967e8u);
}

TEST(RandomTest, DrawsTheWordsOfItsStreamInOrder) {
  Random random(42);
  for (uint32_t block = 0; block < 3; ++block) {
    for (uint32_t word : philox(42, {block, 0, 0, 0})) EXPECT_EQ(random.next(), word);
  }
}

TEST(RandomTest, BelowStaysBelowAndReachesEverything) {
  for (uint64_t bound : {uint64_t(1), uint64_t(2), uint64_t(7), uint64_t(1000)}) {
    Random random(bound);
    std::vector<int> counts(bound);
    for (uint64_t i = 0; i < 40 * bound; ++i) ++counts.at(random.below(bound));
    EXPECT_GT(*std::min_element(counts.begin(), counts.end()), 10);
  }
  Random random(1);
  for (int i = 0; i < 100; ++i) EXPECT_LT(random.below((uint64_t(1) << 63) + 1), (uint64_t(1) << 63) + 1);
}

TEST(RandomTest, UniformAndNormalHaveTheirMoments) {
  constexpr int kDraws = 100000;
  Random random(5);
  double sum = 0, least = 1, most = 0, normal_sum = 0, squares = 0, fourths = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.uniform(), n = random.normal();
    sum += u;
    least = std::min(least, u);
    most = std::max(most, u);
    normal_sum += n;
    squares += n * n;
    fourths += n * n * n * n;
  }
  EXPECT_GE(least, 0);
  EXPECT_LT(least, 1e-3);
  EXPECT_LT(most, 1);
  EXPECT_GT(most, 0.999);
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);  // five standard errors
  EXPECT_NEAR(normal_sum / kDraws, 0, 0.016);
  EXPECT_NEAR(squares / kDraws, 1, 0.023);
  EXPECT_NEAR(fourths / kDraws, 3, 0.16);
}

}  // namespace
}  // namespace coppice
