#pragma once
// One job inside the engine: what it is, where it stands, what of its step is under way. Plain data; the
// engine moves it. Thread: main.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "coordinator/pace.h"
#include "coordinator/params/checkpoint.h"
#include "coordinator/prepare.h"
#include "worker/stage.h"

namespace coppice {

enum class Phase {
  kQueued,        // waits for memory
  kLoading,       // its data, or its tensors from the store, are being read
  kInitializing,  // stages make version 0
  kStepping,      // micro-batches of a step are out
  kEvaluating,    // micro-batches of an evaluation are out
  kWaiting,       // for a commit, or stopped at a step boundary
  kMoving,        // to another pipeline, once nothing of it is on its way
  kPaused,        // by its user, at a step boundary
  kFinishing,     // the last version is being committed
  kExporting,     // its tensors are on their way from the shards
  kLeaving,       // has failed or was cancelled: its packs run out
  kEnded,
};

// What the store holds of a job.
struct StoredJob {
  JobRecord record;
  std::optional<JobHead> head;        // with state
  std::function<ShardState()> state;  // reads it: on the store thread
  std::vector<MetricRecord> metrics;
};

// Whether a job that is submitted again has nothing more to do: done, and exported to the run folder, or
// ended otherwise. total_steps: that are wanted now.
bool stays_ended(const StoredJob& known, int64_t total_steps, const std::string& output);

struct JobRun {
  std::unique_ptr<PreparedJob> job;  // none of a job that was only kept, or has left
  JobMemory memory;                  // of job
  JobRecord record;
  JobHead head;
  Phase phase = Phase::kQueued;
  std::optional<StoredJob> known;  // until it is admitted
  bool reading = false;            // a thread reads something of it
  bool never_fits = false;         // on these hosts: it waits for a start with more memory
  bool accepted_told = false;      // an event has said that it is queued
  bool shown_only = false;         // its failure is not stored: the next start tries again
  int pipeline = -1;
  int next_pipeline = -1;      // where it moves to; -1: it stays
  int64_t moved_version = -1;  // at which it moved last
  std::vector<bool> on_stage;  // by stage: whether tensors of it live there
  std::vector<int> shard_of;   // by tensor: the shard rank that owns it
  bool on_shards = false, on_stages = false;
  bool pause_wanted = false;

  // of the step or evaluation under way
  std::shared_ptr<const StepPlan> plan;
  int64_t unpacked = 0;  // the first micro-batch that is in no pack yet
  int64_t losses_missing = 0;
  std::vector<double> losses;               // by micro-batch
  std::vector<double> squared_norms;        // of the gradients, by tensor
  int64_t norms_missing = 0;                // tensors
  double grad_norm = 0, learning_rate = 0;  // of the last step

  int64_t packs_in_flight = 0;
  int answers_missing = 0;  // of stages: initial tensors, or acknowledgements of a version
  double published_seconds = 0;
  Pace pace;
  std::vector<Tensor> fetched;  // tensors that stages made or shards gave
  int64_t fetched_missing = 0;

  std::vector<MetricRecord> unsaved_metrics;
  int64_t changes = 0;                           // of record or head, since the process began
  int64_t saved_changes = 0;                     // durable
  bool saving = false;                           // a commit is being written
  int64_t saved_version = -1;                    // durable
  int64_t saved_at = 0;                          // the number of its last commit among all
  double commit_began_seconds = 0;               // of the commit being written
  JobState state_under_way = JobState::kQueued;  // that it holds
  JobState durable_state = JobState::kQueued;    // what others are told: running, or durable
  int64_t overtaken = 0;                         // times that smaller jobs went before it
  std::optional<Commit> under_way;               // waits for the shards
  int64_t told_changes = 0;                      // with which its state was told without waiting for a commit
  int64_t changes_under_way = 0, version_under_way = -1;  // that the commit being written holds
  int commits_missing = 0;                                // of shards

  const std::string& name() const { return record.name; }
  const TrainArguments& train() const { return job->spec.train; }
  bool ended() const { return phase == Phase::kEnded; }
  // Stages have nothing to do for it, and no version is on its way to them.
  bool settled() const { return packs_in_flight == 0 && answers_missing == 0; }
  int stages_with_tensors() const { return int(std::count(on_stage.begin(), on_stage.end(), true)); }
  bool unsaved() const { return changes > (saving ? changes_under_way : saved_changes); }
};

// In the order of submission.
struct BySubmission {
  bool operator()(const JobRun* a, const JobRun* b) const {
    return std::tie(a->record.ordinal, a->record.name) < std::tie(b->record.ordinal, b->record.name);
  }
};
// The one that was committed longest ago first. A job that is in such a set is not committed.
struct ByLastCommit {
  bool operator()(const JobRun* a, const JobRun* b) const {
    return a->saved_at != b->saved_at ? a->saved_at < b->saved_at : BySubmission()(a, b);
  }
};

// Lines of metrics.jsonl.
std::string step_line(const JobRun& run);
std::string evaluation_line(const JobRun& run);

}  // namespace coppice
