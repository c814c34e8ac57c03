#include "coordinator/params/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace coppice {

int64_t warmup_steps(const TrainArguments& train, int64_t total_steps) {
  if (train.warmup_steps > 0) return train.warmup_steps;
  return int64_t(std::ceil(double(total_steps) * train.warmup_ratio));
}

double learning_rate(const TrainArguments& train, int64_t step, int64_t total_steps) {
  const int64_t warmup =
      train.lr_scheduler_type == LrSchedule::kConstant ? 0 : warmup_steps(train, total_steps);
  if (step < warmup) return train.learning_rate * (double(step) / double(std::max<int64_t>(1, warmup)));
  const double length = double(std::max<int64_t>(1, total_steps - warmup));
  switch (train.lr_scheduler_type) {
    case LrSchedule::kLinear:
      return train.learning_rate * std::max(0.0, double(total_steps - step) / length);
    case LrSchedule::kCosine: {
      const double progress = double(step - warmup) / length;
      return train.learning_rate * std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * progress)));
    }
    case LrSchedule::kConstant:
    case LrSchedule::kConstantWithWarmup:
      return train.learning_rate;
  }
  return train.learning_rate;
}

}  // namespace coppice
