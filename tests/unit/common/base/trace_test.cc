#include "common/base/trace.h"

#include <gtest/gtest.h>

namespace coppice {
namespace {

TEST(TraceTest, KeepsNothingUntilItBegins) {
  Trace trace;
  EXPECT_FALSE(trace.on());
  trace.add("forward", 1, 2);
  EXPECT_EQ(trace.size(), 0u);
  trace.begin(0);
  EXPECT_TRUE(trace.on());
  trace.add("forward", 1, 2);
  EXPECT_EQ(trace.size(), 1u);
}

TEST(TraceTest, SpansAreOnTheAgreedClock) {
  Trace trace;
  trace.begin(100);
  trace.add("forward", 1.5, 2, 7);
  trace.add("update", -3, -1, 0, "a job");
  const std::vector<TraceSpan> spans = trace.take();
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0].name, "forward");
  EXPECT_EQ(spans[0].begin, 101.5);
  EXPECT_EQ(spans[0].seconds, 0.5);
  EXPECT_EQ(spans[0].pack, 7u);
  EXPECT_EQ(spans[0].job, "");
  EXPECT_EQ(spans[1].begin, 97);
  EXPECT_EQ(spans[1].seconds, 2);
  EXPECT_EQ(spans[1].job, "a job");
}

TEST(TraceTest, TakesEachSpanOnce) {
  Trace trace;
  trace.begin(0);
  trace.add("wait", 1, 2);
  EXPECT_EQ(trace.take().size(), 1u);
  EXPECT_TRUE(trace.take().empty());
  trace.add("wait", 2, 3);
  EXPECT_EQ(trace.take().size(), 1u);
}

TEST(TraceTest, TheClockGoesForward) {
  const double first = steady_seconds();
  EXPECT_GE(steady_seconds(), first);
}

}  // namespace
}  // namespace coppice
