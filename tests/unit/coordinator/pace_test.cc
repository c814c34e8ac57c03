#include "coordinator/pace.h"

#include <gtest/gtest.h>

namespace coppice {
namespace {

JobHead head(int64_t version, int64_t tokens) {
  JobHead made;
  made.version = version;
  made.tokens = tokens;
  return made;
}

TEST(PaceTest, NothingIsKnownOfAJobThatHasNotRun) {
  const Pace pace;
  EXPECT_EQ(pace.tokens_per_second(100, head(7, 700)), 0);
  EXPECT_FALSE(pace.seconds_left(100, head(7, 700), 10));
}

TEST(PaceTest, OnlyTheTimeThatItRanHereCounts) {
  Pace pace;
  pace.go(50, head(10, 1000));  // queued until then, and at step 10 of an earlier run
  EXPECT_FALSE(pace.seconds_left(51, head(10, 1000), 20));
  EXPECT_DOUBLE_EQ(pace.tokens_per_second(54, head(12, 1200)), 50);
  EXPECT_DOUBLE_EQ(*pace.seconds_left(54, head(12, 1200), 20), 16);
  pace.rest(54);
  EXPECT_DOUBLE_EQ(pace.tokens_per_second(1000, head(12, 1200)), 50);
  EXPECT_DOUBLE_EQ(*pace.seconds_left(1000, head(12, 1200), 20), 16);
  pace.go(1000, head(12, 1200));
  pace.go(1001, head(12, 1200));  // again is nothing new
  EXPECT_DOUBLE_EQ(pace.tokens_per_second(1002, head(15, 1500)), 500.0 / 6);
}

}  // namespace
}  // namespace coppice
