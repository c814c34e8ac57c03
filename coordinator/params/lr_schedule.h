#pragma once
// Learning-rate schedules with warm-up, as transformers.optimization computes them
// (get_linear_schedule_with_warmup and the like). Thread: any.

#include <cstdint>

#include "coordinator/jobs/job.h"

namespace coppice {

int64_t warmup_steps(const TrainArguments& train,
                     int64_t total_steps);  // ceil(ratio * total) where no steps are given
// The rate of the update number step (from 0) of total_steps.
double learning_rate(const TrainArguments& train, int64_t step, int64_t total_steps);

}  // namespace coppice
