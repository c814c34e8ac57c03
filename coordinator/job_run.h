#pragma once
// One job inside the engine: what it is, where it stands, what of its step is under way. Plain data; the
// engine moves it. Thread: main.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/params/checkpoint.h"
#include "coordinator/prepare.h"
#include "worker/stage.h"

namespace coppice {

enum class Phase {
  kInitializing,  // stages make version 0
  kPublishing,    // a version is on its way to the stages
  kStepping,      // micro-batches of a step are out
  kEvaluating,    // micro-batches of an evaluation are out
  kWaiting,       // for a commit, or stopped at a step boundary
  kFinishing,     // the last version is being committed, then exported
  kLeaving,       // has failed: its packs run out
  kEnded,
};

// What the store holds of a job.
struct StoredJob {
  JobRecord record;
  std::optional<JobHead> head;  // with state
  ShardState state;
  std::vector<MetricRecord> metrics;
};

struct JobRun {
  std::unique_ptr<PreparedJob> job;
  JobRecord record;
  JobHead head;
  Phase phase = Phase::kInitializing;

  // of the step or evaluation under way
  std::shared_ptr<const StepPlan> plan;
  int64_t unpacked = 0;  // the first micro-batch that is in no pack yet
  int64_t losses_missing = 0;
  std::vector<double> losses;  // by micro-batch

  int64_t packs_in_flight = 0;
  int answers_missing = 0;  // of stages: initial tensors, or acknowledgements of a version
  std::vector<NumberedTensor> initial;

  std::vector<MetricRecord> unsaved_metrics;
  bool unsaved = false;        // record or head changed since the last commit was handed over
  bool saving = false;         // a commit is being written
  int64_t saved_version = -1;  // durable
  int64_t saved_at = 0;        // the number of its last commit among all

  const std::string& name() const { return record.name; }
  const TrainArguments& train() const { return job->spec.train; }
  bool ended() const { return phase == Phase::kEnded; }
};

// Lines of metrics.jsonl.
std::string step_line(const JobRun& run, double gradient_norm, double learning_rate, double seconds);
std::string evaluation_line(const JobRun& run);

}  // namespace coppice
