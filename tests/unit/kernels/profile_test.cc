#include "kernels/profile.h"

#include <gtest/gtest.h>

#include "kernels/registry.h"

namespace coppice {
namespace {

TEST(ProfileTest, CountsFromTheWarmUpToTheLastUpdate) {
  ThreadPool pool(1);
  Profile profile;
  ProfiledBackend device(make_backend("ref", pool), 1, profile);
  const Buffer buffer = device.allocate(4 * 100 * sizeof(float));
  const Matrix all = buffer.matrix(4, 100);
  const auto step = [&](int64_t number, int fills) {
    for (int i = 0; i < fills; ++i) device.fill(all, 0);
    device.adamw({.learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .step = number},
                 all.row_range(0, 1), all.row_range(1, 1), all.row_range(2, 1), all.row_range(3, 1));
  };
  const double began = profile.began;
  step(1, 7);
  EXPECT_TRUE(profile.operators.empty());
  EXPECT_GT(profile.began, began);
  step(2, 2);
  step(3, 3);
  const double ended = profile.ended;
  device.fill(all, 0);  // of an export, say
  EXPECT_EQ(profile.ended, ended);
  ASSERT_EQ(profile.operators.size(), 2u);
  EXPECT_EQ(profile.operators["fill"].calls, 5);
  EXPECT_EQ(profile.operators["fill"].bytes, 5 * 4 * 100 * double(sizeof(float)));
  EXPECT_EQ(profile.operators["adamw"].calls, 2);
  const double operators = profile.operators["fill"].seconds + profile.operators["adamw"].seconds;
  EXPECT_GT(operators, 0);
  EXPECT_LE(operators, profile.elapsed_seconds());
}

}  // namespace
}  // namespace coppice
