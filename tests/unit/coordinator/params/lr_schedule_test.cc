// Numbers of transformers 5.23: get_scheduler(NAME, optimizer, warm-up steps, total steps), the rate before
// each step, and TrainingArguments.get_warmup_steps.

#include "coordinator/params/lr_schedule.h"

#include <gtest/gtest.h>

#include <vector>

namespace coppice {
namespace {

struct Case {
  const char* name;
  LrSchedule schedule;
  int64_t warmup, total;
  std::vector<double> rates;
};

const Case kCases[] = {
    {"linear",
     LrSchedule::kLinear,
     0,
     5,
     {0.0003, 0.00023999999999999998, 0.00017999999999999998, 0.00011999999999999999,
      5.9999999999999995e-05}},
    {"linear",
     LrSchedule::kLinear,
     3,
     10,
     {0.0, 9.999999999999999e-05, 0.00019999999999999998, 0.0003, 0.0002571428571428571,
      0.00021428571428571427, 0.0001714285714285714, 0.00012857142857142855, 8.57142857142857e-05,
      4.285714285714285e-05}},
    {"linear", LrSchedule::kLinear, 4, 4, {0.0, 7.5e-05, 0.00015, 0.000225}},
    {"linear", LrSchedule::kLinear, 6, 4, {0.0, 4.9999999999999996e-05, 9.999999999999999e-05, 0.00015}},
    {"cosine",
     LrSchedule::kCosine,
     0,
     5,
     {0.0003, 0.0002713525491562421, 0.0001963525491562421, 0.0001036474508437579, 2.8647450843757897e-05}},
    {"cosine",
     LrSchedule::kCosine,
     3,
     10,
     {0.0, 9.999999999999999e-05, 0.00019999999999999998, 0.0003, 0.0002851453301853628,
      0.00024352347027881003, 0.00018337814009344714, 0.00011662185990655284, 5.6476529721189974e-05,
      1.4854669814637143e-05}},
    {"cosine", LrSchedule::kCosine, 4, 4, {0.0, 7.5e-05, 0.00015, 0.000225}},
    {"cosine", LrSchedule::kCosine, 6, 4, {0.0, 4.9999999999999996e-05, 9.999999999999999e-05, 0.00015}},
    {"constant", LrSchedule::kConstant, 3, 4, {0.0003, 0.0003, 0.0003, 0.0003}},
    {"constant_with_warmup", LrSchedule::kConstantWithWarmup, 0, 3, {0.0003, 0.0003, 0.0003}},
    {"constant_with_warmup",
     LrSchedule::kConstantWithWarmup,
     3,
     5,
     {0.0, 9.999999999999999e-05, 0.00019999999999999998, 0.0003, 0.0003}},
    {"constant_with_warmup",
     LrSchedule::kConstantWithWarmup,
     6,
     4,
     {0.0, 4.9999999999999996e-05, 9.999999999999999e-05, 0.00015}},
};

TEST(LrScheduleTest, IsThatOfTransformers) {
  for (const Case& c : kCases) {
    TrainArguments train;
    train.learning_rate = 3e-4;
    train.lr_scheduler_type = c.schedule;
    train.warmup_steps = c.warmup;
    for (size_t step = 0; step < c.rates.size(); ++step) {
      EXPECT_DOUBLE_EQ(learning_rate(train, int64_t(step), c.total), c.rates[step])
          << c.name << ", warm-up " << c.warmup << " of " << c.total << ", step " << step;
    }
  }
}

TEST(LrScheduleTest, ShareOfWarmupIsRoundedUp) {
  struct {
    double ratio;
    int64_t total, steps;
  } const cases[] = {{0, 100, 0},     {0.03, 10, 1},  {0.03, 100, 3}, {0.03, 101, 4},
                     {0.1, 30, 3},    {0.07, 100, 8},  // 0.07 * 100 is a little above 7 in doubles
                     {0.29, 100, 29}, {0.5, 1, 1},    {0.1, 7, 1}};
  for (const auto& c : cases) {
    TrainArguments train;
    train.warmup_ratio = c.ratio;
    EXPECT_EQ(warmup_steps(train, c.total), c.steps) << c.ratio << " of " << c.total;
  }
}

TEST(LrScheduleTest, StepsOfWarmupGoBeforeTheirShare) {
  TrainArguments train;
  train.warmup_ratio = 0.5;
  train.warmup_steps = 5;
  EXPECT_EQ(warmup_steps(train, 100), 5);
}

TEST(LrScheduleTest, AfterTheLastStepTheRateIsZeroNotNegative) {
  TrainArguments train;
  for (const LrSchedule schedule : {LrSchedule::kLinear, LrSchedule::kCosine}) {
    train.lr_scheduler_type = schedule;
    EXPECT_EQ(learning_rate(train, 10, 10), 0);
  }
  train.lr_scheduler_type = LrSchedule::kLinear;
  EXPECT_EQ(learning_rate(train, 12, 10), 0);
}

}  // namespace
}  // namespace coppice
