#include "coordinator/jobs/batching.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/base/check.h"
#include "common/base/error.h"
#include "common/base/random.h"

namespace coppice {
namespace {

constexpr int64_t kDefaultTokens = 2048;

int64_t ceil_divide(int64_t value, int64_t by) {
  return (value + by - 1) / by;
}

void check_lengths(const Dataset& dataset, const char* what, const JobSpec& spec, int64_t virtual_rows,
                   int64_t max_rows) {
  for (size_t i = 0; i < dataset.examples.size(); ++i) {
    const int64_t tokens = int64_t(dataset.examples[i].tokens.size());
    if (tokens + virtual_rows <= max_rows) continue;
    throw invalid("jobs.{}: {} sequence {} has {} tokens{}, but train.max_tokens_per_micro_batch is {}",
                  spec.name, what, i + 1, tokens,
                  virtual_rows > 0 ? fmt::format(" and {} virtual rows", virtual_rows) : "", max_rows);
  }
}

// What so many sequences cannot exceed, without going through the orders of all epochs: the longest together.
int64_t most_rows(const Dataset& dataset, int64_t count, int64_t virtual_rows) {
  std::vector<int64_t> rows;
  rows.reserve(dataset.examples.size());
  for (const Example& example : dataset.examples)
    rows.push_back(int64_t(example.tokens.size()) + virtual_rows);
  const size_t first = std::min(size_t(count), rows.size());
  std::partial_sort(rows.begin(), rows.begin() + first, rows.end(), std::greater<>());
  return std::accumulate(rows.begin(), rows.begin() + first, int64_t(0));
}

}  // namespace

Batching::Batching(const JobData& data, const JobSpec& spec, int64_t virtual_rows)
    : data_(data), train_(spec.train), shuffle_(spec.data.shuffle), virtual_rows_(virtual_rows) {
  // Where the job says nothing, a sequence of max_length always fits, with the virtual rows before it.
  max_rows_ = train_.max_tokens_per_micro_batch > 0
                  ? train_.max_tokens_per_micro_batch
                  : std::max(kDefaultTokens, spec.data.length_limit() + virtual_rows);
  if (data.train->examples.empty()) throw invalid("jobs.{}: there is no training data", spec.name);
  check_lengths(*data.train, "training", spec, virtual_rows, max_rows_);
  check_lengths(*data.eval, "evaluation", spec, virtual_rows, max_rows_);
}

int64_t Batching::steps_per_epoch() const {
  const int64_t batches =
      ceil_divide(int64_t(data_.train->examples.size()), train_.per_device_train_batch_size);
  return ceil_divide(batches, train_.gradient_accumulation_steps);
}

int64_t Batching::total_steps() const {
  if (train_.max_steps > 0) return train_.max_steps;
  return int64_t(std::ceil(train_.num_train_epochs * double(steps_per_epoch())));
}

const std::vector<int64_t>& Batching::order(int64_t epoch) const {
  if (ordered_epoch_ == epoch) return order_;
  order_.resize(data_.train->examples.size());
  std::iota(order_.begin(), order_.end(), int64_t(0));
  if (shuffle_) {
    // Fisher and Yates; each epoch from the file's order, so that any step can be made without those before
    // it.
    Random random(stream_key(train_.seed, Purpose::kShuffle, {uint64_t(epoch)}));
    for (size_t i = order_.size() - 1; i > 0; --i) std::swap(order_[i], order_[random.below(i + 1)]);
  }
  ordered_epoch_ = epoch;
  return order_;
}

std::vector<MicroBatch> Batching::cut(const std::vector<const Example*>& examples, int64_t batch_size) const {
  std::vector<MicroBatch> batches;
  for (size_t i = 0; i < examples.size(); ++i) {
    const int64_t rows = int64_t(examples[i]->tokens.size()) + virtual_rows_;
    const bool full = batches.empty() || int64_t(batches.back().examples.size()) == batch_size ||
                      batches.back().rows + rows > max_rows_;
    if (full) {
      MicroBatch batch;
      batch.number = int64_t(batches.size());
      batch.first_sequence = int64_t(i);
      batches.push_back(std::move(batch));
    }
    MicroBatch& batch = batches.back();
    batch.examples.push_back(examples[i]);
    batch.rows += rows;
    batch.targets += examples[i]->targets(virtual_rows_ > 0);
  }
  return batches;
}

StepPlan Batching::step(int64_t step) const {
  CHECK(step >= 0);
  const int64_t size = int64_t(data_.train->examples.size());
  const int64_t epoch = step / steps_per_epoch();
  const int64_t in_epoch = step % steps_per_epoch();
  const int64_t per_step = train_.per_device_train_batch_size * train_.gradient_accumulation_steps;
  const int64_t begin = in_epoch * per_step;
  const int64_t end = std::min(size, begin + per_step);
  const std::vector<int64_t>& order = this->order(epoch);
  std::vector<const Example*> examples;
  StepPlan plan;
  for (int64_t i = begin; i < end; ++i) {
    examples.push_back(&data_.train->examples[size_t(order[size_t(i)])]);
    plan.tokens += int64_t(examples.back()->tokens.size());
  }
  plan.micro_batches = cut(examples, train_.per_device_train_batch_size);
  for (const MicroBatch& batch : plan.micro_batches) plan.targets += batch.targets;
  // The Trainer counts epochs in batches of its loader, of which the last may be short.
  const int64_t batches = ceil_divide(size, train_.per_device_train_batch_size);
  const int64_t done = std::min(batches, (in_epoch + 1) * train_.gradient_accumulation_steps);
  plan.epoch = double(epoch) + double(done) / double(batches);
  return plan;
}

StepPlan Batching::evaluation() const {
  std::vector<const Example*> examples;
  StepPlan plan;
  for (const Example& example : data_.eval->examples) {
    examples.push_back(&example);
    plan.tokens += int64_t(example.tokens.size());
  }
  plan.micro_batches = cut(examples, train_.per_device_eval_batch_size);
  for (const MicroBatch& batch : plan.micro_batches) plan.targets += batch.targets;
  return plan;
}

bool Batching::evaluates_after(int64_t step) const {
  if (data_.eval->examples.empty()) return false;
  if (step == 0) return train_.eval_on_start;
  const bool last = step == total_steps();
  if (last && (train_.eval_at_end || train_.eval_strategy != EvalStrategy::kNo)) return true;
  if (train_.eval_strategy == EvalStrategy::kEpoch) return step % steps_per_epoch() == 0;
  if (train_.eval_strategy != EvalStrategy::kSteps) return false;
  const double given = train_.eval_steps > 0 ? train_.eval_steps : train_.logging_steps;
  const double every = given < 1 ? std::ceil(given * double(total_steps())) : given;
  return step % int64_t(every) == 0;
}

int64_t Batching::max_micro_batch_rows() const {
  return std::min(max_rows_,
                  std::max(most_rows(*data_.train, train_.per_device_train_batch_size, virtual_rows_),
                           most_rows(*data_.eval, train_.per_device_eval_batch_size, virtual_rows_)));
}

int64_t Batching::max_step_rows() const {
  return most_rows(*data_.train, train_.per_device_train_batch_size * train_.gradient_accumulation_steps,
                   virtual_rows_);
}

int64_t Batching::evaluation_rows() const {
  return data_.eval->tokens + virtual_rows_ * int64_t(data_.eval->examples.size());
}

}  // namespace coppice
