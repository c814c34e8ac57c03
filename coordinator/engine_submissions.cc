// How jobs come to the engine and what their users ask of them: submission, waiting for memory, pause,
// cancel.

#include <algorithm>
#include <new>
#include <utility>

#include "common/base/check.h"
#include "common/base/error.h"
#include "coordinator/engine.h"

namespace coppice {
namespace {

constexpr int64_t kMostOvertaken = 64;  // times that smaller jobs may go before one that waits for memory
constexpr int kMostLookedAt = 16;       // of those that must wait, when others have left

}  // namespace

void Engine::submit(std::unique_ptr<PreparedJob> job, std::optional<StoredJob> known) {
  auto owned = std::make_unique<JobRun>();
  JobRun& run = *owned;
  const PreparedJob& prepared = *job;
  run.record.ordinal = known ? known->record.ordinal : options_.first_ordinal++;
  run.record.name = prepared.spec.name;
  run.record.keys = prepared.spec.keys;
  run.record.method = prepared.method->hf_config();
  run.record.total_steps = prepared.total_steps;
  run.record.trainable_parameters = prepared.method->trainable_parameters();
  run.record.backbone = backbone_.path;
  run.record.backbone_fingerprint = backbone_.fingerprint;
  run.record.data_fingerprint = prepared.data_fingerprint();
  run.record.dtype = options_.dtype;
  run.record.instruction_set = options_.instruction_set;
  run.job = std::move(job);
  run.memory = run.job->memory;
  run.on_stage = stages_with_tensors(*run.job->method);
  const std::string name = run.name();
  CHECK(jobs_.emplace(name, std::move(owned)).second);
  if (known && known->head) {
    run.head = *known->head;
    run.saved_version = run.head.version;
  }
  if (known && stays_ended(*known, run.record.total_steps, options_.output)) {
    run.record = known->record;
    run.durable_state = run.record.state;
    run.phase = Phase::kEnded;
    run.job.reset();
    return tell(JobEvent::Kind::kState, run);
  }
  run.pause_wanted = run.accepted_told = known && known->record.state == JobState::kPaused;
  run.known = std::move(known);
  run.record.state = run.pause_wanted ? JobState::kPaused : JobState::kQueued;
  if (run.pause_wanted) run.durable_state = JobState::kPaused;  // the store says so already
  queued_.insert(&run);
  changed(run);
  admit_waiting();
  if (run.phase != Phase::kQueued) return;
  run.job->unload();
  if (run.record.reason.empty() && !run.pause_wanted) run.record.reason = "waits for memory behind others";
  tell_accepted(run);
}

// No promise: that is the answer to who submitted it.
void Engine::tell_accepted(JobRun& run) {
  if (std::exchange(run.accepted_told, true)) return;
  tell(JobEvent::Kind::kState, run);
}

void Engine::check_new(const PreparedJob& job) const {
  if (jobs_.contains(job.spec.name))
    throw invalid("job {}: there is one of that name already; another makes a new job", job.spec.name);
  const FitAnswer answer = fit_on_hosts(options_.hosts, job.spec.name, job.memory, {});
  if (answer.fit == Fit::kNever) throw Error(ErrorCode::kExhausted, answer.message);
}

int64_t Engine::memory_bytes(const PreparedJob& job) const {
  return options_.hosts.at(0).job_bytes(job.memory);
}

int64_t Engine::free_bytes() const {
  std::vector<JobMemory> running;
  for (const JobRun* run : running_) running.push_back(run->memory);
  return options_.hosts.at(0).limit_bytes - options_.hosts[0].total_bytes(running) - reserved_bytes_;
}

void Engine::reserve_bytes(int64_t bytes) {
  reserved_bytes_ += bytes;
  if (bytes < 0) room_ = true;
}

FitAnswer Engine::fits_now(const JobRun& run, std::vector<JobMemory>& others) const {
  FitAnswer answer = fit_on_hosts(options_.hosts, run.name(), run.memory, others);
  if (answer.fit != Fit::kNow || reserved_bytes_ == 0) return answer;
  others.push_back(run.memory);
  const bool beyond = options_.hosts[0].total_bytes(others) + reserved_bytes_ > options_.hosts[0].limit_bytes;
  others.pop_back();
  if (beyond) answer = {Fit::kLater, "waits while the data of submissions is read"};
  return answer;
}

void Engine::keep(StoredJob job, const std::string& reason) {
  auto run = std::make_unique<JobRun>();
  run->record = std::move(job.record);
  if (job.head) {
    run->head = *job.head;
    run->saved_version = run->head.version;
  }
  run->phase = Phase::kEnded;
  if (!reason.empty()) {
    run->record.state = JobState::kFailed;
    run->record.reason = reason;
    run->shown_only = true;
  }
  run->durable_state = run->record.state;
  tell(JobEvent::Kind::kState, *run);
  const std::string name = run->name();
  jobs_.emplace(name, std::move(run));
}

void Engine::cancel(const std::string& name) {
  JobRun& run = known(name);
  if (run.ended() || run.phase == Phase::kLeaving || run.phase == Phase::kExporting) {
    throw invalid("job {} is {}; a job that has not ended can be cancelled", name,
                  job_state_name(run.record.state));
  }
  fail(run, "", JobState::kCancelled);
}

void Engine::pause(const std::string& name) {
  JobRun& run = known(name);
  const bool possible = !run.ended() && run.phase != Phase::kLeaving && run.phase != Phase::kExporting &&
                        run.phase != Phase::kFinishing && run.record.state != JobState::kPaused;
  if (!possible) {
    throw invalid("job {} is {}; one that is queued or running can be paused", name,
                  job_state_name(run.record.state));
  }
  run.pause_wanted = true;
  run.record.state = JobState::kPaused;
  changed(run);
}

void Engine::resume(const std::string& name) {
  JobRun& run = known(name);
  if (run.record.state != JobState::kPaused) {
    throw invalid("job {} is {}; one that is paused can be resumed", name, job_state_name(run.record.state));
  }
  run.pause_wanted = false;
  run.record.state = run.on_shards ? JobState::kRunning : JobState::kQueued;
  changed(run);
  if (run.phase == Phase::kPaused) advance(run);
  admit_waiting();
}

// In the order of submission. One that must wait lets smaller ones behind it go first, but not for ever, and
// not from anywhere in a long queue. One that can never fit here is waited for by none.
void Engine::admit_waiting() {
  if (stopping_) return;
  std::vector<JobMemory> others;
  for (const JobRun* run : running_) others.push_back(run->memory);
  JobRun* first_left = nullptr;
  int left = 0;
  for (auto next = queued_.begin(); next != queued_.end() && left < kMostLookedAt;) {
    JobRun* run = *next++;  // it leaves the queue when it starts
    if (run->pause_wanted || run->never_fits) continue;
    if (first_left != nullptr && first_left->overtaken >= kMostOvertaken) return;
    const FitAnswer answer = fits_now(*run, others);
    if (answer.fit != Fit::kNow) {
      run->record.reason = answer.message;
      run->never_fits = answer.fit == Fit::kNever;
      if (run->never_fits) continue;
      if (first_left == nullptr) first_left = run;
      ++left;
      continue;
    }
    if (first_left != nullptr) ++first_left->overtaken;
    others.push_back(run->memory);
    most_memory_bytes_ = std::max(most_memory_bytes_, options_.hosts[0].total_bytes(others));
    run->record.reason.clear();
    start(*run);
  }
}

void Engine::start(JobRun& run) {
  tell_accepted(run);
  queued_.erase(&run);
  running_.insert(&run);
  run.pipeline = lightest_pipeline();
  pipelines_[size_t(run.pipeline)].queue.add(run.name(), run.job->spec.priority);
  run.phase = Phase::kLoading;
  run.job->loaded() ? load_tensors(run) : load_job(run);
}

// One that has waited. A job that has gone meanwhile leaves when the reading ends: the memory was its own.
// It was admitted for the data that it was submitted with: what has grown since is not read to its end.
void Engine::load_job(JobRun& run) {
  struct Loaded {
    std::unique_ptr<PreparedJob> job;
    bool grew = false;
    std::string error;
  };
  const auto loaded = std::make_shared<Loaded>();
  run.reading = true;
  reads_.submit(
      [this, spec = run.job->spec, most_bytes = data_bytes(run.memory.data), loaded] {
        if (stopping_) return;
        try {
          loaded->job = prepare_job(spec, backbone_, most_bytes);
        } catch (const Error& error) {
          loaded->grew = error.code() == ErrorCode::kExhausted;
          loaded->error = error.what();
        } catch (const std::bad_alloc&) {
          loaded->error = "there was no memory for its data";
        } catch (const std::exception& error) {
          loaded->error = error.what();
        }
      },
      [this, &run, loaded](double) {
        run.reading = false;
        if (run.phase != Phase::kLoading) return leave_if_done(run);
        const PreparedJob* now = loaded->job.get();
        const DataArguments& data = run.job->spec.data;
        const std::string files = data.eval ? data.train + ", or " + *data.eval : data.train;
        if (loaded->grew || (now != nullptr && now->data_fingerprint() != run.record.data_fingerprint))
          return fail(run, fmt::format("its data ({}) is not what it was when it was submitted", files));
        if (now != nullptr && now->method->hf_config() != run.record.method) {
          return fail(run, fmt::format("its init_adapter ({}) is not what it was when it was submitted",
                                       run.job->spec.init_adapter.value_or("none")));
        }
        run.shown_only = now == nullptr;
        if (run.shown_only) return fail(run, loaded->error);
        run.job = std::move(loaded->job);
        // It may share now what it was counted with alone.
        if (run.memory.data != run.job->memory.data) room_ = true;
        run.memory = run.job->memory;
        load_tensors(run);
      });
}

void Engine::load_tensors(JobRun& run) {
  const auto known = std::exchange(run.known, std::nullopt);
  if (!known || !known->head) return make_tensors(run);
  const auto state = std::make_shared<ShardState>();
  run.reading = true;
  store_.submit([state, read = known->state] { *state = read(); },
                [this, &run, state](const std::string& error) {
                  run.reading = false;
                  if (run.phase != Phase::kLoading) return leave_if_done(run);
                  run.shown_only = !error.empty();
                  if (run.shown_only) return fail(run, error);
                  add_to_shards(run, std::move(*state));
                });
}

void Engine::make_tensors(JobRun& run) {
  if (run.job->initial.empty()) return initialize(run);
  ShardState state;
  state.parameters = std::exchange(run.job->initial, {});
  add_to_shards(run, std::move(state));
}

}  // namespace coppice
