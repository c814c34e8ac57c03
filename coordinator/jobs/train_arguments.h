#pragma once
// The train block of a job: transformers.TrainingArguments with their names, defaults and meanings (of
// version 5, and the names that version 4 had for the same thing), read from JSON and written back in
// canonical form. Keys that transformers does not have: max_tokens_per_micro_batch and eval_at_end (job.h
// says what they do). save_steps has no default rhythm, since commits run beside the steps; save_strategy
// "no" means the same. Thread: any. Errors: kInvalid, kUnsupported, naming the field.

#include <string>

#include "common/io/json.h"
#include "coordinator/jobs/job.h"

namespace coppice {

TrainArguments read_train_arguments(const Json& json, const std::string& where);

// Every supported key with its value: equal for two blocks that mean the same, and read back to the same
// arguments.
Json train_keys(const TrainArguments& train);

}  // namespace coppice
