#include "coordinator/schedule/planner.h"

#include <gmock/gmock.h>

#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;

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

std::vector<int64_t> sizes(const std::vector<LayerRange>& ranges) {
  std::vector<int64_t> sizes;
  for (const LayerRange& range : ranges) sizes.push_back(range.end - range.first);
  return sizes;
}

TEST(PlannerTest, MeasuredCostsDecide) {
  const auto measured = [](int64_t layers, int64_t stages, double head) {
    return sizes(plan_stages(config(layers, 4096), stages, {0.002, 0.002 * head}));
  };
  EXPECT_EQ(measured(8, 2, 0), (std::vector<int64_t>{4, 4}));
  EXPECT_EQ(measured(8, 2, 2), (std::vector<int64_t>{5, 3}));
  EXPECT_EQ(measured(8, 2, 100), (std::vector<int64_t>{7, 1}));
  EXPECT_EQ(measured(12, 3, 3), (std::vector<int64_t>{5, 5, 2}));
  EXPECT_EQ(measured(3, 3, 50), (std::vector<int64_t>{1, 1, 1}));
}

TEST(SplitTest, IsTakenAsGiven) {
  const auto ranges = parse_split("4,5,3", config(12, 4096));
  ASSERT_EQ(ranges.size(), 3u);
  EXPECT_EQ(ranges[1].first, 4);
  EXPECT_EQ(ranges[1].end, 9);
  EXPECT_EQ(ranges[2].end, 12);
  EXPECT_EQ(sizes(parse_split("1", config(1, 4096))), (std::vector<int64_t>{1}));
}

TEST(SplitTest, WhatDoesNotMakeTheBackboneIsRefused) {
  const auto refusal = [](std::string_view split) {
    const Error error = error_of([&] { parse_split(split, config(12, 4096)); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    return std::string(error.what());
  };
  EXPECT_EQ(
      refusal("4,5"),
      "--split is 4,5: it gives 9 of 12 layers; the number of layers of each stage is accepted, 12 in all, "
      "as in 6,6");
  EXPECT_THAT(refusal("4,9"), HasSubstr("the backbone has 12 layers"));
  EXPECT_THAT(refusal("9223372036854775807,9223372036854775807"), HasSubstr("the backbone has 12 layers"));
  EXPECT_THAT(refusal("99999999999999999999"), HasSubstr("\"99999999999999999999\" is no number"));
  for (const char* split : {"", ",", "4,", ",12", "0,12", "-1,13", "4, 8", "4;8", "four,8", "12.0"}) {
    EXPECT_THAT(refusal(split), HasSubstr("is no number of at least 1")) << split;
  }
}

TEST(PlannerTest, APackHasMoreRowsForMoreThreadsAndForLessWorkInARow) {
  BackboneConfig large = config(12, 32000);
  large.hidden = 768;
  large.intermediate = 2048;
  large.heads = large.kv_heads = 12;
  large.head_dim = 64;
  EXPECT_EQ(default_pack_rows(large, 1, DType::kF32), 512);
  const int64_t rows = default_pack_rows(large, 4, DType::kF32);
  EXPECT_GT(rows, 512);
  EXPECT_NEAR(double(default_pack_rows(large, 8, DType::kF32)), double(2 * rows), 1);
  EXPECT_EQ(default_pack_rows(large, 64, DType::kF32), 2048);
  EXPECT_EQ(default_pack_rows(large, 1, DType::kBF16), 1024);
  EXPECT_EQ(default_pack_rows(large, 8, DType::kBF16), default_pack_rows(large, 8, DType::kF32));
  EXPECT_EQ(default_pack_rows(config(4, 4096), 2, DType::kF32), 2048);  // a small one
}

TEST(PlannerTest, RefusesMoreStagesThanLayers) {
  EXPECT_THROW(plan_stages(config(4, 4096), 5), Error);
  EXPECT_THROW(plan_stages(config(4, 4096), 0), Error);
}

}  // namespace
}  // namespace coppice
