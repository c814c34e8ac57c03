#include "worker/messages.h"

#include <gmock/gmock.h>

#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

PackPlan example() {
  PackPlan plan;
  plan.pack.id = 12;
  plan.pack.checkpointing = true;
  plan.pack.rows = 9;
  plan.pack.segments = {{"one", 3, 3, 1, true, -1, 0, 6, {{0, 2, 3, 4, 0}, {5, 0, 1, 5, 7}}},
                        {"two", 8, 9, 0, false, kNoBackward, 6, 3, {{6, 0, 3, 0, 0}}}};
  plan.ends_step = {true, false};
  plan.adapter_here = {false, true};
  plan.tokens = {0, 0, 11, 12, 13, 14, 15, 16, 17};
  plan.targets = {{2, 3, 8}, {12, 13, 99}, {0.5f, 0.25f, 1.0f}};
  return plan;
}

PackPlan there_and_back(const PackPlan& plan) {
  return from_proto(read_header<proto::PackPlan>(make_message(proto::PACK_PLAN, to_proto(plan))));
}

TEST(MessagesTest, APlanComesBackAsItWas) {
  const PackPlan plan = example();
  const PackPlan back = there_and_back(plan);
  EXPECT_EQ(back.pack.id, 12u);
  EXPECT_TRUE(back.pack.checkpointing);
  EXPECT_EQ(back.pack.rows, 9);
  ASSERT_EQ(back.pack.segments.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const Segment &a = plan.pack.segments[i], &b = back.pack.segments[i];
    EXPECT_EQ(b.job, a.job);
    EXPECT_EQ(b.version, a.version);
    EXPECT_EQ(b.step, a.step);
    EXPECT_EQ(b.micro_batch, a.micro_batch);
    EXPECT_EQ(b.training, a.training);
    EXPECT_EQ(b.lowest_layer, a.lowest_layer);
    EXPECT_EQ(b.row, a.row);
    EXPECT_EQ(b.rows, a.rows);
    ASSERT_EQ(b.sequences.size(), a.sequences.size());
    for (size_t j = 0; j < a.sequences.size(); ++j) {
      EXPECT_EQ(b.sequences[j].row, a.sequences[j].row);
      EXPECT_EQ(b.sequences[j].virtual_rows, a.sequences[j].virtual_rows);
      EXPECT_EQ(b.sequences[j].tokens, a.sequences[j].tokens);
      EXPECT_EQ(b.sequences[j].in_step, a.sequences[j].in_step);
      EXPECT_EQ(b.sequences[j].first_position, a.sequences[j].first_position);
    }
  }
  EXPECT_THAT(back.ends_step, ElementsAre(true, false));
  EXPECT_THAT(back.adapter_here, ElementsAre(false, true));
  EXPECT_EQ(back.tokens, plan.tokens);
  EXPECT_EQ(back.targets.rows, plan.targets.rows);
  EXPECT_EQ(back.targets.targets, plan.targets.targets);
  EXPECT_EQ(back.targets.weights, plan.targets.weights);
}

TEST(MessagesTest, AStageInTheMiddleGetsNoTokensAndNoTargets) {
  PackPlan plan = example();
  plan.tokens.clear();
  plan.targets = {};
  const PackPlan back = there_and_back(plan);
  EXPECT_TRUE(back.tokens.empty());
  EXPECT_TRUE(back.targets.rows.empty());
  EXPECT_EQ(back.pack.rows, 9);
}

// What each change to a good plan is refused with.
TEST(MessagesTest, APlanThatDoesNotHoldTogetherIsRefused) {
  const auto refused = [](const std::function<void(proto::PackPlan&)>& change) {
    proto::PackPlan plan = to_proto(example());
    change(plan);
    const Error error = error_of([&] { from_proto(plan); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    return std::string(error.what());
  };
  EXPECT_EQ(refused([](auto& p) { p.set_rows(10); }), "pack 12: 10 rows are announced, 9 are in it");
  EXPECT_EQ(refused([](auto& p) { p.mutable_segments(1)->set_row(5); }),
            "pack: segment of job two begins at row 5, not 6");
  EXPECT_EQ(refused([](auto& p) { p.mutable_segments(0)->set_rows(7); }),
            "pack: segment of job one is not as long as its sequences");
  const std::string follows = "pack: a sequence of job one does not follow the one before it";
  EXPECT_EQ(refused([](auto& p) { p.mutable_segments(0)->mutable_sequences(1)->set_row(4); }), follows);
  EXPECT_EQ(refused([](auto& p) { p.mutable_segments(0)->mutable_sequences(0)->set_virtual_rows(-1); }),
            follows);
  for (const int64_t tokens : {int64_t(0), int64_t(-3), INT64_MAX, int64_t(INT32_MAX)}) {
    EXPECT_EQ(refused([&](auto& p) { p.mutable_segments(0)->mutable_sequences(0)->set_tokens(tokens); }),
              follows);
  }
  EXPECT_EQ(
      refused([](auto& p) { p.mutable_segments(0)->mutable_sequences(0)->set_virtual_rows(INT64_MAX); }),
      follows);
  EXPECT_EQ(refused([](auto& p) { p.mutable_segments(0)->set_rows(INT64_MIN); }),
            "pack: segment of job one is not as long as its sequences");
  EXPECT_EQ(refused([](auto& p) { p.add_tokens(1); }), "pack 12: it has 9 rows, but tokens for 10");
  EXPECT_EQ(refused([](auto& p) { p.add_targets(1); }),
            "pack 12: its targets are not as many as its target rows");
  EXPECT_EQ(refused([](auto& p) { p.set_target_rows(2, 9); }), "pack 12: target row 9 follows 3 in 9 rows");
  EXPECT_EQ(refused([](auto& p) { p.set_target_rows(0, -1); }),
            "pack 12: target row -1 follows -1 in 9 rows");
  EXPECT_EQ(refused([](auto& p) { p.set_target_rows(1, 2); }), "pack 12: target row 2 follows 2 in 9 rows");
}

TEST(MessagesTest, AHeaderThatCannotBeReadNamesItsSender) {
  Message message;
  message.from = 3;
  message.kind = 9;
  message.header = "\xff\xff\xff";
  EXPECT_EQ(message_of([&] { read_header<proto::AdapterTensors>(message); }),
            "message of kind 9 from rank 3: its header cannot be read");
}

Message tensors_message(const std::vector<NumberedTensor>& tensors) {
  proto::AdapterTensors header;
  header.set_job("one");
  Message message;
  put_tensors(tensors, header, message);
  message.header = header.SerializeAsString();
  return message;
}

TEST(MessagesTest, TensorsComeBackAsTheyWere) {
  NumberedTensor a{4, Tensor({2, 3})}, none{0, Tensor({0, 5})}, one{7, Tensor(Shape{})};
  for (size_t i = 0; i < 6; ++i) a.tensor.values[i] = float(i) - 2.5f;
  one.tensor.values[0] = 1e-30f;
  const Message message = tensors_message({a, none, one});
  const auto back = get_tensors(read_header<proto::AdapterTensors>(message), message);
  ASSERT_EQ(back.size(), 3u);
  EXPECT_EQ(back[0].number, 4);
  EXPECT_EQ(back[0].tensor.shape, a.tensor.shape);
  EXPECT_EQ(back[0].tensor.values, a.tensor.values);
  EXPECT_EQ(back[1].tensor.shape, none.tensor.shape);
  EXPECT_TRUE(back[1].tensor.values.empty());
  EXPECT_EQ(back[2].number, 7);
  EXPECT_EQ(back[2].tensor.values, one.tensor.values);
}

TEST(MessagesTest, AShapeThatDoesNotFitItsBytesIsRefused) {
  const Message message = tensors_message({{4, Tensor({2, 3})}});
  auto header = read_header<proto::AdapterTensors>(message);
  const std::vector<Shape> wrong = {{2, 4},
                                    {5},
                                    {-2, -3},
                                    {6, 0},
                                    {},
                                    {INT64_MAX, 2},
                                    {1 << 20, 1 << 22, 1 << 22},
                                    {4611686018427387904, 4, 6}};
  for (const Shape& shape : wrong) {
    auto* entry = header.mutable_tensors(0);
    entry->clear_shape();
    entry->mutable_shape()->Add(shape.begin(), shape.end());
    EXPECT_EQ(message_of([&] { get_tensors(header, message); }),
              fmt::format("tensor 4 of job one: shape {} does not fit 24 bytes", shape_string(shape)));
  }
  header.add_tensors();
  EXPECT_THAT(message_of([&] { get_tensors(header, message); }), HasSubstr("2 are announced, 1 arrived"));
}

}  // namespace
}  // namespace coppice
