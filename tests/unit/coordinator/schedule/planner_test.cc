#include "coordinator/schedule/planner.h"

#include <gtest/gtest.h>

#include "common/base/error.h"

namespace coppice {
namespace {

BackboneConfig config(int64_t layers, int64_t vocabulary) {
  BackboneConfig config;
  config.hidden = 256;
  config.intermediate = 704;
  config.layers = layers;
  config.heads = 8;
  config.kv_heads = 4;
  config.head_dim = 32;
  config.vocabulary = vocabulary;
  return config;
}

TEST(PlannerTest, CoversAllLayersWithoutHole) {
  for (int64_t layers : {1, 2, 7, 8, 32}) {
    for (int64_t stages = 1; stages <= layers; ++stages) {
      const auto ranges = plan_stages(config(layers, 4096), stages);
      ASSERT_EQ(int64_t(ranges.size()), stages);
      int64_t next = 0;
      for (const LayerRange& range : ranges) {
        EXPECT_EQ(range.first, next);
        EXPECT_GT(range.end, range.first);
        next = range.end;
      }
      EXPECT_EQ(next, layers);
    }
  }
}

TEST(PlannerTest, TheHeadCountsAsLayers) {
  const auto ranges = plan_stages(config(8, 32000), 2);  // such a head costs more than five of these blocks
  EXPECT_GT(ranges[0].end - ranges[0].first, ranges[1].end - ranges[1].first);
}

TEST(PlannerTest, RefusesMoreStagesThanLayers) {
  EXPECT_THROW(plan_stages(config(4, 4096), 5), Error);
  EXPECT_THROW(plan_stages(config(4, 4096), 0), Error);
}

}  // namespace
}  // namespace coppice
