#include "common/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace coppice {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEveryTaskOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (int64_t count : {0, 1, 2, 3, 7, 100, 10000}) {
    std::vector<std::atomic<int>> runs(size_t(count + 1));
    pool.parallel_for(count, [&](int64_t i, int) { ++runs[size_t(i)]; });
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(runs[size_t(i)], 1) << i << " of " << count;
    ASSERT_EQ(runs.back(), 0);
  }
}

TEST_P(ThreadPoolTest, AWorkerNumberBelongsToOneThreadAtATime) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> busy(static_cast<size_t>(GetParam()));
  std::atomic<bool> shared{false};
  for (int round = 0; round < 50; ++round) {
    pool.parallel_for(40, [&](int64_t, int worker) {
      if (busy.at(size_t(worker)).exchange(1) != 0) shared = true;
      std::this_thread::yield();
      busy[size_t(worker)] = 0;
    });
  }
  EXPECT_FALSE(shared);
}

TEST_P(ThreadPoolTest, WhatTasksWroteIsSeenAfterTheCall) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> values(1000);
  for (int64_t round = 1; round < 200; ++round) {
    pool.parallel_for(1000, [&](int64_t i, int) { values[size_t(i)] += i; });
    ASSERT_EQ(values[999], 999 * round);
  }
}

TEST_P(ThreadPoolTest, AnExceptionReachesTheCallerAndThePoolGoesOn) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 20; ++round) {
    EXPECT_THROW(pool.parallel_for(100,
                                   [](int64_t i, int) {
                                     if (i == 31) throw std::runtime_error("task");
                                   }),
                 std::runtime_error);
    std::atomic<int> runs{0};
    pool.parallel_for(10, [&](int64_t, int) { ++runs; });
    EXPECT_EQ(runs, 10);
  }
}

TEST_P(ThreadPoolTest, OnStartRunsInEveryThread) {
  std::atomic<int> starts{0};
  {
    ThreadPool pool(GetParam(), [&] { ++starts; });
  }
  EXPECT_EQ(starts, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace coppice
