#include "coordinator/schedule/packer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace coppice {
namespace {

using ::testing::ElementsAre;

class PackerTest : public ::testing::Test {
 protected:
  PackItem item(const std::string& job, const std::vector<const Example*>& examples) {
    auto plan = std::make_shared<StepPlan>();
    MicroBatch batch;
    batch.examples = examples;
    batch.first_sequence = 5;
    plan->micro_batches.push_back(batch);
    PackItem item;
    item.job = job;
    item.training = true;
    item.lowest_layer = 0;
    item.target_weight = 0.25f;
    item.plan = plan;
    return item;
  }

  const Example text_{{7, 8, 9}, {7, 8, 9}};
  const Example completion_{{1, 2, 3, 4}, {kIgnored, kIgnored, 3, 4}};
};

TEST_F(PackerTest, ARowPredictsTheTokenBehindIt) {
  const auto packed = make_pack(3, false, {item("a", {&text_, &completion_})});
  EXPECT_EQ(packed.plan.pack.id, 3u);
  EXPECT_EQ(packed.plan.pack.rows, 7);
  EXPECT_THAT(packed.plan.tokens, ElementsAre(7, 8, 9, 1, 2, 3, 4));
  EXPECT_THAT(packed.plan.targets.rows, ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(packed.plan.targets.targets, ElementsAre(8, 9, 3, 4));
  EXPECT_THAT(packed.plan.targets.weights, ElementsAre(0.25f, 0.25f, 0.25f, 0.25f));
  const auto& sequences = packed.plan.pack.segments[0].sequences;
  ASSERT_EQ(sequences.size(), 2u);
  EXPECT_EQ(sequences[1].row, 3);
  EXPECT_EQ(sequences[1].in_step, 6);
}

TEST_F(PackerTest, TheLastVirtualRowPredictsTheFirstToken) {
  PackItem prompt = item("a", {&text_});
  prompt.virtual_rows = 2;
  const auto packed = make_pack(1, false, {prompt});
  EXPECT_THAT(packed.plan.tokens, ElementsAre(0, 0, 7, 8, 9));
  EXPECT_THAT(packed.plan.targets.rows, ElementsAre(1, 2, 3));
  EXPECT_THAT(packed.plan.targets.targets, ElementsAre(7, 8, 9));
}

TEST_F(PackerTest, APrefixShiftsPositions) {
  PackItem prefix = item("a", {&text_});
  prefix.prefix_rows = 4;
  const auto packed = make_pack(1, false, {prefix});
  EXPECT_EQ(packed.plan.pack.segments[0].sequences[0].first_position, 4);
  EXPECT_EQ(packed.plan.pack.rows, 3);
}

TEST_F(PackerTest, SegmentsWithADeeperBackwardComeFirst) {
  PackItem evaluation = item("evaluation", {&text_}), high = item("high", {&text_}),
           deep = item("deep", {&completion_});
  evaluation.training = false;
  evaluation.lowest_layer = kNoBackward;
  high.lowest_layer = 6;
  deep.lowest_layer = -1;
  const auto packed = make_pack(1, true, {evaluation, high, deep});
  const auto& segments = packed.plan.pack.segments;
  EXPECT_THAT((std::vector<std::string>{segments[0].job, segments[1].job, segments[2].job}),
              ElementsAre("deep", "high", "evaluation"));
  EXPECT_TRUE(packed.plan.pack.checkpointing);
  EXPECT_EQ(packed.plan.pack.backward_rows(-2), 0);
  EXPECT_EQ(packed.plan.pack.backward_rows(0), 4);
  EXPECT_EQ(packed.plan.pack.backward_rows(6), 7);
  EXPECT_EQ(packed.plan.pack.rows, 10);
  EXPECT_EQ(packed.items[0].job, "deep");
}

TEST_F(PackerTest, CrossesRanksUnchanged) {
  PackItem prompt = item("a", {&text_, &completion_});
  prompt.virtual_rows = 2;
  prompt.ends_step = true;
  const PackPlan plan = make_pack(9, true, {prompt, item("b", {&completion_})}).plan;
  const PackPlan copy = from_proto(to_proto(plan));
  EXPECT_EQ(to_proto(copy).SerializeAsString(), to_proto(plan).SerializeAsString());
  EXPECT_EQ(copy.tokens, plan.tokens);
  EXPECT_EQ(copy.ends_step, plan.ends_step);
}

}  // namespace
}  // namespace coppice
