#include "coordinator/schedule/fairness.h"

#include <algorithm>
#include <map>

#include <gtest/gtest.h>

namespace coppice {
namespace {

const auto kAll = [](const std::string&) { return true; };

std::map<std::string, int> counts(const std::vector<std::string>& taken) {
  std::map<std::string, int> counts;
  for (const std::string& job : taken) ++counts[job];
  return counts;
}

TEST(FairQueueTest, FillsThePackWithWhatIsReady) {
  FairQueue queue;
  queue.add("a", 1);
  queue.add("b", 1);
  queue.push("a", 100);
  queue.push("b", 300);
  EXPECT_EQ(queue.take(1000, kAll), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(queue.empty());
  EXPECT_TRUE(queue.take(1000, kAll).empty());
}

TEST(FairQueueTest, NeverGoesAboveTheBudget) {
  FairQueue queue;
  queue.add("a", 1);
  queue.add("b", 1);
  for (int i = 0; i < 10; ++i) {
    queue.push("a", 70);
    queue.push("b", 110);
  }
  while (!queue.empty()) {
    int64_t rows = 0;
    for (const std::string& job : queue.take(250, kAll)) rows += job == "a" ? 70 : 110;
    EXPECT_GT(rows, 0);
    EXPECT_LE(rows, 250);
  }
}

TEST(FairQueueTest, AMicroBatchAboveTheBudgetGoesAlone) {
  FairQueue queue;
  queue.add("large", 1);
  queue.add("small", 1);
  queue.push("large", 5000);
  queue.push("small", 10);
  std::vector<std::vector<std::string>> packs;
  while (!queue.empty()) packs.push_back(queue.take(1000, kAll));
  ASSERT_EQ(packs.size(), 2u);
  for (const auto& pack : packs) EXPECT_EQ(pack.size(), 1u);
}

TEST(FairQueueTest, SharesByWeight) {
  FairQueue queue(64);
  queue.add("light", 1);
  queue.add("heavy", 3);
  for (int i = 0; i < 400; ++i) {
    queue.push("light", 64);
    queue.push("heavy", 64);
  }
  std::map<std::string, int> taken;
  for (int pack = 0; pack < 20; ++pack) {
    for (const auto& [job, count] : counts(queue.take(640, kAll))) taken[job] += count;
  }
  EXPECT_EQ(taken["light"] + taken["heavy"], 200);
  EXPECT_NEAR(taken["heavy"], 150, 8);
}

TEST(FairQueueTest, LongMicroBatchesDoNotTakeMoreThanShortOnes) {
  FairQueue queue;
  queue.add("long", 1);
  queue.add("short", 1);
  for (int i = 0; i < 100; ++i) queue.push("long", 1000);
  for (int i = 0; i < 1000; ++i) queue.push("short", 100);
  int64_t rows_long = 0, rows_short = 0;
  for (int pack = 0; pack < 20; ++pack) {
    const auto taken = counts(queue.take(2000, kAll));
    if (taken.contains("long")) rows_long += 1000 * taken.at("long");
    if (taken.contains("short")) rows_short += 100 * taken.at("short");
  }
  EXPECT_NEAR(double(rows_long) / double(rows_long + rows_short), 0.5, 0.1);
}

TEST(FairQueueTest, ManyEqualJobsGetEqualTurnsWhereFewFitAPack) {
  FairQueue queue;
  std::map<std::string, int> total;
  for (int i = 0; i < 20; ++i) queue.add(std::to_string(i), 1);
  for (int i = 0; i < 20; ++i) queue.push(std::to_string(i), 30);
  for (int pack = 0; pack < 101; ++pack) {
    for (const std::string& job : queue.take(128, kAll)) {
      ++total[job];
      queue.push(job, 30);
    }
  }
  ASSERT_EQ(total.size(), 20u);
  int least = 1000, most = 0;
  for (const auto& [job, count] : total) {
    least = std::min(least, count);
    most = std::max(most, count);
  }
  EXPECT_LE(most - least, 1);
}

TEST(FairQueueTest, LeavesOutJobsThatAreNotAdmitted) {
  FairQueue queue;
  queue.add("a", 1);
  queue.add("b", 1);
  queue.push("a", 10);
  queue.push("b", 10);
  EXPECT_EQ(queue.take(100, [](const std::string& job) { return job == "b"; }),
            std::vector<std::string>{"b"});
  EXPECT_FALSE(queue.empty());
}

// A pack holds jobs of one kind: that of the first that is asked.
TEST(FairQueueTest, KindsThatExcludeEachOtherTakeTurns) {
  FairQueue queue;
  for (const char* job : {"a1", "a2", "b"}) queue.add(job, 1);
  int packs_with_b = 0;
  for (int pack = 0; pack < 10; ++pack) {
    for (const char* job : {"a1", "a2", "b"}) queue.push(job, 10);  // never empty
    char kind = 0;
    const auto taken = queue.take(100, [&](const std::string& job) {
      if (kind == 0) kind = job[0];
      return kind == job[0];
    });
    packs_with_b += counts(taken).contains("b");
  }
  EXPECT_GE(packs_with_b, 4);
  EXPECT_LE(packs_with_b, 6);
}

TEST(FairQueueTest, ForgetsWhatIsClearedAndRemoved) {
  FairQueue queue;
  queue.add("a", 1);
  queue.add("b", 1);
  queue.push("a", 10);
  queue.clear("a");
  EXPECT_TRUE(queue.empty());
  queue.push("b", 10);
  queue.remove("a");
  EXPECT_EQ(queue.take(100, kAll), std::vector<std::string>{"b"});
  queue.remove("b");
  EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace coppice
