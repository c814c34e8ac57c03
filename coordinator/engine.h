#pragma once
// The coordinator of a run: takes jobs at any time, brings each step by step to its end, leads the shards of
// the parameter server and keeps the store. One event loop over the transport: what has arrived is taken in,
// then packs are filled and sent to the pipelines while credits last.
//
// The life of a job: it waits until memory has room, and holds next to none until then: its data, and its
// tensors in the store, are read when it is admitted, beside the steps of others. Its tensors are made on the
// stages (or come from a file or the store), given to the shards and published as a version; from here on it
// is said to run. Then step by step its micro-batches go out in packs, losses and norms come back, the shards
// update and publish the next version; between steps it may evaluate, pause, or move to a pipeline that has
// nothing to do. At its end: commit, export, done. A job that fails or is cancelled leaves alone, with its
// reason kept.
//
// The next step begins as soon as the shards have been told to update: its packs name the new version, and a
// stage holds them until that is in place (stage_worker.h says why no wait is for ever). Only what takes a
// job away from stages waits for them to have acknowledged the version: moving, leaving, stopping. A version
// that came after its job had gone would stay there, and a move back would find it.
//
// Thread: main. Errors: poll() throws what ends the run: a rank that is gone (kFailed), a store that cannot
// be written (kExhausted, kFailed). What concerns one job fails that job.

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/base/trace.h"
#include "common/io/files.h"
#include "coordinator/cluster.h"
#include "coordinator/job_run.h"
#include "coordinator/params/shard_worker.h"
#include "coordinator/params/write_thread.h"
#include "coordinator/prepare.h"
#include "coordinator/schedule/fairness.h"
#include "coordinator/schedule/memory_model.h"
#include "coordinator/schedule/packer.h"
#include "coordinator/store_thread.h"

namespace coppice {

struct EngineOptions {
  std::string output;              // the run folder: adapters/, metrics.jsonl
  std::vector<LayerRange> stages;  // of each pipeline
  int64_t pack_rows = 2048;        // of a full pack
  int64_t credits = 1;             // packs that may be in flight in a pipeline
  std::vector<MemoryModel> hosts;  // say which jobs run at the same time
  std::string dtype;               // of the run, into the jobs' records
  std::string instruction_set;
  double trace_began = 0;             // by steady_seconds(): spans are told from there
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
  // backend: of the shard, where the coordinator holds the parameters itself.
  Engine(Cluster& cluster, Backend& backend, const Backbone& backbone, KvStore& store, EngineOptions options);
  ~Engine();

  void on_event(std::function<void(const JobEvent&)> callback) { on_event_ = std::move(callback); }
  // Spans of all ranks, where a trace is wanted.
  void on_span(std::function<void(int rank, const std::vector<TraceSpan>&)> callback) {
    on_span_ = std::move(callback);
  }

  // known: what the store holds of the job; it goes on from there. method and keys have been compared before.
  // A job that can never fit, which check_new says, waits for ever.
  void submit(std::unique_ptr<PreparedJob> job, std::optional<StoredJob> known);
  // Throws kInvalid for a name that is taken, kExhausted with the numbers for a job that can never fit.
  void check_new(const PreparedJob& job) const;
  // One that has ended, or for this reason cannot go on: shown, not run.
  void keep(StoredJob job, const std::string& reason = {});
  // By name; kNotFound for an unknown job, kInvalid where its state does not allow it.
  void cancel(const std::string& job);
  void pause(const std::string& job);  // at its next step boundary
  void resume(const std::string& job);
  // Calls done once all that is true of these jobs now survives a crash.
  void when_durable(const std::vector<std::string>& jobs, std::function<void()> done);

  bool poll();          // does what can be done now; false where there was nothing
  bool ended() const;   // every job has ended, or the stop is complete
  void request_stop();  // at once, at the last step boundary of each job; ended() when all is committed
  void save_all();      // commits what is unsaved and at hand, in any state of things
  void close();         // waits for the store
  void take(const Message& message);

  const std::map<std::string, std::unique_ptr<JobRun>>& jobs() const { return jobs_; }
  const JobRun& job(const std::string& name) const;    // throws kNotFound naming those there are
  double seconds() const;                              // since the run began
  int64_t memory_bytes(const PreparedJob& job) const;  // that it takes on the first host
  // Of the first host, beside all that runs and what is reserved. No job is admitted into what is reserved;
  // less than nothing gives back.
  int64_t free_bytes() const;
  void reserve_bytes(int64_t bytes);
  // What the memory model said at most of the jobs that were here together, on the first host.
  int64_t most_memory_bytes() const { return most_memory_bytes_; }

 private:
  struct InFlightPack {
    std::vector<PackItem> items;
    int pipeline = 0;
    int stages_left = 0;
    int64_t rows = 0;
  };
  struct Pipeline {
    std::vector<int> ranks;  // by stage
    FairQueue queue;
    int64_t packs = 0, rows = 0;  // in flight
  };
  struct Waiter {
    std::map<std::string, int64_t> changes;  // of each job, that are to be durable
    std::function<void()> done;
  };

  // engine.cc: messages and packs
  void take_initial(const Message& message);
  void take_losses(const Message& message);
  void take_norms(const Message& message);
  void take_done(const Message& message);
  void take_ready(const Message& message);
  void come_back(JobRun& run);
  void take_spans(const Message& message);
  JobRun* find(const std::string& job, Phase phase);
  JobRun& known(const std::string& job);
  bool fill_packs();
  bool fill_packs(int pipeline);
  PackItem next_item(JobRun& run);
  void send_pack(int pipeline, PackedItems packed);
  int64_t pack_budget(const Pipeline& pipeline) const;

  // engine_submissions.cc and engine_jobs.cc: the life of a job
  void admit_waiting();
  FitAnswer fits_now(const JobRun& run, std::vector<JobMemory>& others) const;
  void tell_accepted(JobRun& run);
  void start(JobRun& run);
  void load_job(JobRun& run);
  void load_tensors(JobRun& run);
  void make_tensors(JobRun& run);
  void initialize(JobRun& run);
  void add_to_shards(JobRun& run, ShardState state);
  void tell_running(JobRun& run);
  void route(JobRun& run);
  void advance(JobRun& run);
  int idle_pipeline(const JobRun& run) const;
  void move(JobRun& run);
  void begin(JobRun& run, Phase phase, StepPlan plan);
  void end_evaluation(JobRun& run);
  void end_step(JobRun& run);
  void update(JobRun& run, double norm);
  void fetch(JobRun& run);
  void take_parameters(const Message& message);
  void finish(JobRun& run);
  void exported(JobRun& run, const std::string& error);
  void fail(JobRun& run, const std::string& reason, JobState state = JobState::kFailed);
  void leave_if_done(JobRun& run);
  void leave(JobRun& run);
  void drop_from_stages(const JobRun& run);
  int jobs_on(int pipeline) const;
  int lightest_pipeline() const;
  std::vector<bool> stages_with_tensors(const MethodConfig& method) const;
  void to_shard(int rank, Message message);
  std::vector<int> shards_of(const JobRun& run) const;

  // engine_commits.cc: the store
  bool commit_some();
  void commit(JobRun& run);
  StoredElsewhere stored_elsewhere(const JobRun& run) const;
  void take_committed(const Message& message);
  void take_durable();
  void tell_waiters();
  void hurry(JobRun& run);
  void changed(JobRun& run);
  void add_metric(JobRun& run, std::string line);
  void tell(JobEvent::Kind kind, const JobRun& run);
  void note_span(const char* name, double begin, const JobRun& run);  // from begin to now

  Cluster& cluster_;
  Transport& transport_;
  const Backbone& backbone_;
  EngineOptions options_;
  std::unique_ptr<ShardWorker> own_shard_;  // where there are no ranks for it
  std::vector<int> shard_ranks_;
  StoreThread store_;
  std::atomic<bool> stopping_ = false;  // or ending: what has not begun to be read need not be
  WriteThread reads_;                   // of the data of jobs that have been admitted
  std::map<std::string, std::unique_ptr<JobRun>> jobs_;
  // A server keeps all jobs that ever were: what is done often goes through these alone.
  using Jobs = std::set<JobRun*, BySubmission>;
  Jobs queued_, running_;                    // running: admitted, and not ended
  std::set<JobRun*, ByLastCommit> unsaved_;  // and no commit of it is being written
  Jobs urgent_;                              // unsaved, and somebody waits for it
  int saving_ = 0;                           // jobs of which a commit is being written
  bool room_ = false;                        // there may be more room since those that wait were looked at
  std::vector<Pipeline> pipelines_;
  std::map<uint64_t, InFlightPack> packs_;
  uint64_t next_pack_ = 1;
  LineWriter metrics_;
  int64_t next_metric_ = 0;
  double next_commit_seconds_ = 0;
  int64_t commits_ = 0;
  int shard_commits_ = 0;  // that shards have under way
  int64_t most_memory_bytes_ = 0, reserved_bytes_ = 0;
  std::vector<Waiter> waiters_;
  bool new_waiters_ = false;
  double started_seconds_;
  std::function<void(const JobEvent&)> on_event_;
  std::function<void(int rank, const std::vector<TraceSpan>&)> on_span_;
};

}  // namespace coppice
