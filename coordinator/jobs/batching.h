#pragma once
// Cuts each step of a job into micro-batches: a function of the job's own data, keys and seed, and of nothing
// else (design, section 4). A step takes per_device_train_batch_size * gradient_accumulation_steps sequences
// (fewer at the end of an epoch, as HF's Trainer without dataloader_drop_last); a micro-batch holds whole
// sequences, greedily and in order, up to per_device_train_batch_size sequences and
// max_tokens_per_micro_batch rows, virtual rows counted. A step can be made without those before it: each
// epoch's order is its own. Thread: one at a time (it remembers the order of the epoch last asked for).
// Ownership: the data outlives it.

#include <cstdint>
#include <vector>

#include "coordinator/jobs/job.h"
#include "coordinator/jobs/job_data.h"

namespace coppice {

struct MicroBatch {
  int64_t number = 0;          // in its step
  int64_t first_sequence = 0;  // in the step, of its first
  std::vector<const Example*> examples;
  int64_t rows = 0;  // tokens and virtual rows
  int64_t targets = 0;
};

struct StepPlan {
  std::vector<MicroBatch> micro_batches;
  int64_t tokens = 0;
  int64_t targets = 0;
  double epoch = 0;  // after it
};

class Batching {
 public:
  // Throws kInvalid for a sequence above max_tokens_per_micro_batch (both numbers) and for no training data.
  Batching(const JobData& data, const JobSpec& spec, int64_t virtual_rows);

  int64_t steps_per_epoch() const;
  int64_t total_steps() const;               // as transformers computes it from max_steps or num_train_epochs
  StepPlan step(int64_t step) const;         // from 0
  StepPlan evaluation() const;               // all of the evaluation set, by per_device_eval_batch_size
  bool evaluates_after(int64_t step) const;  // step: how many updates have been made; 0: eval_on_start
  int64_t max_micro_batch_rows() const;      // no step and no evaluation has a larger one
  int64_t max_step_rows() const;             // of all micro-batches of a step
  int64_t evaluation_rows() const;           // of all of the evaluation

 private:
  std::vector<MicroBatch> cut(const std::vector<const Example*>& examples, int64_t batch_size) const;
  const std::vector<int64_t>& order(int64_t epoch) const;

  const JobData& data_;
  TrainArguments train_;
  bool shuffle_;
  int64_t virtual_rows_;
  int64_t max_rows_;
  mutable int64_t ordered_epoch_ = -1;
  mutable std::vector<int64_t> order_;
};

}  // namespace coppice
