#pragma once
// The coordinator of a run: takes jobs at any time, brings each step by step to its end, keeps the parameter
// server and the store. One event loop over the transport: what has arrived is taken in, then packs are
// filled and sent while credits last.
//
// The life of a job: its tensors are made on the stages (or come from a file or the store), published as a
// version; then step by step its micro-batches go out in packs, losses and gradients come back, the shard
// updates, the next version is published; between steps it may evaluate. At its end: commit, export, done. A
// job that fails leaves alone, with its reason kept.
//
// Thread: main. Errors: poll() throws what ends the run: a stage that is gone (kFailed), a store that cannot
// be written (kExhausted, kFailed). What concerns one job fails that job.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/io/files.h"
#include "common/transport/transport.h"
#include "coordinator/job_run.h"
#include "coordinator/params/shard.h"
#include "coordinator/prepare.h"
#include "coordinator/schedule/fairness.h"
#include "coordinator/schedule/packer.h"
#include "coordinator/schedule/planner.h"
#include "coordinator/store_thread.h"

namespace coppice {

struct EngineOptions {
  std::string output;              // the run folder: adapters/, metrics.jsonl
  std::vector<LayerRange> stages;  // stage i is rank i + 1
  int64_t pack_rows = 2048;        // of a full pack
  std::string dtype;               // of the run, into the jobs' records
  std::string instruction_set;
  double seconds_before = 0;          // of earlier runs on this folder: the clock of metrics goes on
  int64_t first_ordinal = 0;          // of jobs that are new
  std::vector<MetricRecord> metrics;  // of earlier runs, ascending: metrics.jsonl begins with them
};

// What happened, for who watches.
struct JobEvent {
  enum class Kind { kState, kStep, kEvaluation };
  Kind kind = Kind::kState;
  const JobRun* run = nullptr;
};

class Engine {
 public:
  Engine(Transport& transport, Backend& backend, const Backbone& backbone, KvStore& store,
         EngineOptions options);

  void on_event(std::function<void(const JobEvent&)> callback) { on_event_ = std::move(callback); }
  // known: what the store holds of the job; it goes on from there. method and keys have been compared before.
  void submit(std::unique_ptr<PreparedJob> job, std::optional<StoredJob> known);

  bool poll();          // does what can be done now; false where there was nothing
  bool ended() const;   // every job has ended, or the stop is complete
  void request_stop();  // at once, at the last step boundary of each job; ended() when all is committed
  void save_all();      // commits what is unsaved, in any state of things
  void close();         // sends the workers home and waits for the store

  const std::map<std::string, std::unique_ptr<JobRun>>& jobs() const { return jobs_; }
  double seconds() const;  // since the run began

 private:
  struct InFlightPack {
    std::vector<PackItem> items;
    int stages_left = 0;
  };

  void take(const Message& message);
  void take_initial(const Message& message);
  void take_losses(const Message& message);
  void take_gradients(const Message& message);
  void take_done(const Message& message);
  void take_ready(const Message& message);

  void initialize(JobRun& run);
  void add_to_shard(JobRun& run, ShardState state);
  void publish(JobRun& run);
  void advance(JobRun& run);
  void begin(JobRun& run, Phase phase, StepPlan plan);
  void end_evaluation(JobRun& run);
  void end_step(JobRun& run);
  void finish(JobRun& run);
  void fail(JobRun& run, const std::string& reason);
  void leave(JobRun& run);

  bool fill_packs();
  bool commit_some();
  void commit(JobRun& run, bool with_state);
  void take_durable();
  void add_metric(JobRun& run, std::string line);
  void tell(JobEvent::Kind kind, const JobRun& run);
  std::vector<int> ranks_of(const MethodConfig& method) const;
  JobRun* find(const std::string& job, Phase phase);

  Transport& transport_;
  Shard shard_;
  const Backbone& backbone_;
  EngineOptions options_;
  StoreThread store_;
  std::map<std::string, std::unique_ptr<JobRun>> jobs_;
  FairQueue queue_;
  std::map<uint64_t, InFlightPack> packs_;
  uint64_t next_pack_ = 1;
  size_t credits_;
  LineWriter metrics_;
  int64_t next_metric_ = 0;
  bool stopping_ = false;
  double next_commit_seconds_ = 0;
  int64_t commits_ = 0;
  double started_seconds_;
  std::function<void(const JobEvent&)> on_event_;
};

}  // namespace coppice
