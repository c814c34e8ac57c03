#include "coordinator/jobs/batching.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "common/io/json.h"
#include "tests/unit/coordinator/jobs/expect_error.h"

namespace coppice {
namespace {

// Sequences of the given lengths; the first token of each is its number.
std::shared_ptr<const Dataset> dataset_of(const std::vector<int64_t>& lengths) {
  auto dataset = std::make_shared<Dataset>();
  for (size_t i = 0; i < lengths.size(); ++i) {
    Example example;
    example.tokens.assign(size_t(lengths[i]), int32_t(i));
    example.labels = example.tokens;
    dataset->examples.push_back(example);
  }
  return dataset;
}

std::vector<int32_t> numbers(const StepPlan& plan) {
  std::vector<int32_t> found;
  for (const MicroBatch& batch : plan.micro_batches) {
    for (const Example* example : batch.examples) found.push_back(example->tokens[0]);
  }
  return found;
}

TEST(BatchingTest, StepsEpochsAndEvaluationsAreThoseOfTheTrainer) {
  const Json golden = read_json_file(COPPICE_SOURCE_DIR "/tests/unit/coordinator/jobs/trainer_golden.json");
  ASSERT_EQ(golden["steps"].size(), 15u);
  for (const Json& choice : golden["steps"]) {
    SCOPED_TRACE(shown(choice));
    JobData data;
    data.train = dataset_of(std::vector<int64_t>(choice["size"].get<size_t>(), 3));
    data.eval = dataset_of({3});
    JobSpec spec;
    spec.train.per_device_train_batch_size = choice["batch"];
    spec.train.gradient_accumulation_steps = choice["accumulation"];
    spec.train.num_train_epochs = choice["epochs"];
    spec.train.max_steps = choice["max_steps"];
    const bool by_epoch = choice["eval_steps"].is_null();
    spec.train.eval_strategy = by_epoch ? EvalStrategy::kEpoch : EvalStrategy::kSteps;
    if (!by_epoch) spec.train.eval_steps = choice["eval_steps"];
    const Batching batching(data, spec, 0);
    EXPECT_EQ(batching.steps_per_epoch(), choice["steps_per_epoch"].get<int64_t>());
    ASSERT_EQ(batching.total_steps(), choice["total_steps"].get<int64_t>());
    std::set<int64_t> evaluated;
    for (int64_t step = 0; step < batching.total_steps(); ++step) {
      const StepPlan plan = batching.step(step);
      const Json& theirs = choice["epoch_and_sequences"][size_t(step)];
      EXPECT_DOUBLE_EQ(plan.epoch, theirs[0].get<double>());
      EXPECT_EQ(numbers(plan).size(), theirs[1].get<size_t>());
      if (batching.evaluates_after(step + 1)) evaluated.insert(step + 1);
    }
    EXPECT_EQ(evaluated, std::set<int64_t>(choice["evaluated"].begin(), choice["evaluated"].end()));
    EXPECT_FALSE(batching.evaluates_after(0));
  }
}

class CutTest : public testing::Test {
 protected:
  CutTest() {
    spec_.name = "tone";
    spec_.data.shuffle = false;
    spec_.train.per_device_train_batch_size = 3;
    spec_.train.gradient_accumulation_steps = 2;
  }
  JobData data_;
  JobSpec spec_;
};

TEST_F(CutTest, TakesWholeSequencesInOrderUpToBothBounds) {
  data_.train = dataset_of({4, 4, 4, 9, 2, 5, 10});
  spec_.train.max_tokens_per_micro_batch = 11;
  const Batching batching(data_, spec_, 0);
  const StepPlan plan = batching.step(0);
  ASSERT_EQ(plan.micro_batches.size(), 4u);  // 4+4 | 4 | 9+2 | 5: greedily and in order
  const int64_t first[] = {0, 2, 3, 5}, rows[] = {8, 4, 11, 5}, targets[] = {6, 3, 9, 4};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(plan.micro_batches[i].number, int64_t(i));
    EXPECT_EQ(plan.micro_batches[i].first_sequence, first[i]);
    EXPECT_EQ(plan.micro_batches[i].rows, rows[i]);
    EXPECT_EQ(plan.micro_batches[i].targets, targets[i]);
  }
  EXPECT_EQ(plan.tokens, 28);
  EXPECT_EQ(plan.targets, 22);
  EXPECT_EQ(numbers(plan), (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(numbers(batching.step(1)), (std::vector<int32_t>{6}));
  EXPECT_EQ(batching.max_micro_batch_rows(), 11);
}

TEST_F(CutTest, TheNumberOfSequencesBoundsShortOnes) {
  data_.train = dataset_of({1, 1, 1, 1, 1, 1, 1});
  const Batching batching(data_, spec_, 0);
  ASSERT_EQ(batching.step(0).micro_batches.size(), 2u);
  EXPECT_EQ(batching.step(0).micro_batches[1].first_sequence, 3);
  EXPECT_EQ(batching.max_micro_batch_rows(), 3);
}

TEST_F(CutTest, VirtualRowsCountAndGiveTheFirstTokenATarget) {
  data_.train = dataset_of({4, 4, 4});
  spec_.train.max_tokens_per_micro_batch = 14;
  const StepPlan plan = Batching(data_, spec_, 3).step(0);
  ASSERT_EQ(plan.micro_batches.size(), 2u);
  EXPECT_EQ(plan.micro_batches[0].rows, 14);
  EXPECT_EQ(plan.micro_batches[0].targets, 8);
  EXPECT_EQ(plan.tokens, 12);
}

TEST_F(CutTest, RefusesASequenceAboveTheBoundWithBothNumbers) {
  data_.train = dataset_of({4, 12});
  spec_.train.max_tokens_per_micro_batch = 12;
  EXPECT_NO_THROW(Batching(data_, spec_, 0));
  expect_error(ErrorCode::kInvalid,
               "jobs.tone: training sequence 2 has 12 tokens and 1 virtual rows, but "
               "train.max_tokens_per_micro_batch is 12",
               [&] { Batching(data_, spec_, 1); });
  data_.eval = dataset_of({13});
  expect_error(ErrorCode::kInvalid, "jobs.tone: evaluation sequence 1 has 13 tokens, but",
               [&] { Batching(data_, spec_, 0); });
  data_.train = dataset_of({});
  expect_error(ErrorCode::kInvalid, "jobs.tone: there is no training data",
               [&] { Batching(data_, spec_, 0); });
}

TEST_F(CutTest, ByDefaultASequenceOfMaxLengthFits) {
  spec_.data.max_length = 1000;
  data_.train = dataset_of({1024, 1024, 1});
  EXPECT_EQ(Batching(data_, spec_, 0).step(0).micro_batches.size(), 2u);  // at 2048 rows
  spec_.data.max_length = 4000;
  data_.train = dataset_of({4000, 3000, 1000});
  const Batching batching(data_, spec_, 20);
  EXPECT_EQ(batching.step(0).micro_batches.size(), 3u);
  EXPECT_EQ(batching.max_micro_batch_rows(), 4020);
}

TEST_F(CutTest, EvaluationTakesAllInOrder) {
  data_.train = dataset_of({1});
  data_.eval = dataset_of({2, 2, 2, 2, 2});
  spec_.train.per_device_eval_batch_size = 2;
  const Batching batching(data_, spec_, 0);
  const StepPlan plan = batching.evaluation();
  EXPECT_EQ(plan.micro_batches.size(), 3u);
  EXPECT_EQ(plan.tokens, 10);
  EXPECT_EQ(plan.targets, 5);
  EXPECT_EQ(numbers(plan), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(batching.max_micro_batch_rows(), 4);
}

TEST_F(CutTest, EvaluatesAtStartAndEndWhereThereIsData) {
  data_.train = dataset_of({2});
  spec_.train.max_steps = 4;
  spec_.train.eval_on_start = true;
  const auto evaluated = [&] {
    const Batching batching(data_, spec_, 0);
    std::vector<int64_t> steps;
    for (int64_t step = 0; step <= 4; ++step) {
      if (batching.evaluates_after(step)) steps.push_back(step);
    }
    return steps;
  };
  EXPECT_EQ(evaluated(), std::vector<int64_t>{});
  data_.eval = dataset_of({2});
  EXPECT_EQ(evaluated(), (std::vector<int64_t>{0, 4}));
  spec_.train.eval_at_end = false;
  EXPECT_EQ(evaluated(), (std::vector<int64_t>{0}));
  spec_.train.eval_strategy = EvalStrategy::kSteps;
  spec_.train.eval_steps = 0;
  spec_.train.logging_steps = 3;
  EXPECT_EQ(evaluated(), (std::vector<int64_t>{0, 3, 4}));
}

class ShuffleTest : public testing::Test {
 protected:
  ShuffleTest() {
    data_.train = dataset_of(std::vector<int64_t>(37, 2));
    spec_.train.per_device_train_batch_size = 5;
  }
  std::vector<int32_t> epoch(const Batching& batching, int64_t number) {
    std::vector<int32_t> found;
    const int64_t steps = batching.steps_per_epoch();
    for (int64_t step = 0; step < steps; ++step) {
      for (int32_t i : numbers(batching.step(number * steps + step))) found.push_back(i);
    }
    return found;
  }
  JobData data_;
  JobSpec spec_;
};

TEST_F(ShuffleTest, EveryEpochHasEverySequenceOnceInItsOwnOrder) {
  const Batching batching(data_, spec_, 0);
  const auto first = epoch(batching, 0), second = epoch(batching, 1);
  EXPECT_NE(first, second);
  for (auto order : {first, second}) {
    std::sort(order.begin(), order.end());
    for (int32_t i = 0; i < 37; ++i) EXPECT_EQ(order.at(size_t(i)), i);
  }
}

TEST_F(ShuffleTest, AnyStepCanBeMadeWithoutThoseBeforeIt) {
  const Batching walked(data_, spec_, 0);
  epoch(walked, 0);
  EXPECT_EQ(numbers(walked.step(11)), numbers(Batching(data_, spec_, 0).step(11)));
  EXPECT_EQ(numbers(walked.step(2)), numbers(Batching(data_, spec_, 0).step(2)));
}

TEST_F(ShuffleTest, TheSeedChoosesTheOrder) {
  const auto before = epoch(Batching(data_, spec_, 0), 0);
  spec_.train.seed = 43;
  EXPECT_NE(epoch(Batching(data_, spec_, 0), 0), before);
  spec_.data.shuffle = false;
  const auto plain = epoch(Batching(data_, spec_, 0), 0);
  EXPECT_TRUE(std::is_sorted(plain.begin(), plain.end()));
}

}  // namespace
}  // namespace coppice
