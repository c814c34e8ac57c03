// What of the engine's state goes to the store, when, and who is told when it is there.

#include <algorithm>
#include <utility>

#include "common/base/error.h"
#include "coordinator/engine.h"

namespace coppice {
namespace {

constexpr size_t kMostTogether = 16;  // commits at once: each holds a copy of its job's state
constexpr double kPauses =
    20;  // as long as a commit, of which RocksDB computes as much again on threads of its own

}  // namespace

// Jobs that somebody waits for, or that wait for their own commit, go together and at once. Otherwise the
// newest version of the job that was committed longest ago, and between two a pause of twenty times what the
// last one took, so that commits cost the steps little.
bool Engine::commit_some() {
  if (!store_.idle() || shard_commits_ > 0) return false;
  std::vector<JobRun*> now;
  const auto take = [&](const auto& jobs) {
    for (JobRun* run : jobs)
      if (now.size() < kMostTogether && !run->saving) now.push_back(run);
  };
  stopping_ ? take(unsaved_) : take(urgent_);
  if (now.empty() && seconds() >= next_commit_seconds_) {
    const auto oldest = std::find_if(unsaved_.begin(), unsaved_.end(), [](const JobRun* run) {
      return !run->on_shards || run->train().save_steps <= 0;  // else it has a rhythm of its own
    });
    if (oldest != unsaved_.end()) now.push_back(*oldest);
  }
  for (JobRun* run : now) commit(*run);
  return !now.empty();
}

// It is committed as soon as can be.
void Engine::hurry(JobRun& run) {
  if (run.unsaved()) urgent_.insert(&run);
}

// What the jobs have reached, where the run ends in an error: of tensors, those that this rank holds.
void Engine::save_all() {
  for (auto& [name, run] : jobs_) {
    if (run->unsaved() && !run->saving && !run->ended() && own_shard_) commit(*run);
  }
  store_.drain();
}

// Shards write a new version first; then it becomes HEAD here. A version that HEAD is at already, and a job
// that has no tensors yet, need none of them.
void Engine::commit(JobRun& run) {
  unsaved_.erase(&run);
  urgent_.erase(&run);
  Commit commit{run.record, run.head, std::nullopt, std::exchange(run.unsaved_metrics, {}), std::nullopt};
  const bool new_version = run.on_shards && run.head.version > run.saved_version;
  if (new_version && own_shard_) {
    commit.state = own_shard_->shard().state(run.name());
  } else if (new_version) {
    commit.elsewhere = stored_elsewhere(run);
  } else if (run.head.version == run.saved_version) {
    commit.elsewhere = StoredElsewhere{run.saved_version, {}, {}};
  }
  // Whoever reads the folder meanwhile may find this commit for long.
  if (run.record.state == JobState::kQueued && run.phase != Phase::kQueued)
    commit.record.state = JobState::kRunning;
  if (run.shown_only) {
    commit.record.state = JobState::kRunning;
    commit.record.reason.clear();
  }
  run.saving = true;
  ++saving_;
  run.changes_under_way = run.changes;
  run.state_under_way = run.record.state;
  run.commit_began_seconds = steady_seconds();
  run.version_under_way = new_version ? run.head.version : run.saved_version;
  run.saved_at = ++commits_;
  if (!new_version || own_shard_) return store_.submit(std::move(commit));
  run.under_way = std::move(commit);
  proto::AdapterVersion version;
  version.set_job(run.name());
  version.set_version(run.head.version);
  for (int rank : shards_of(run)) {
    ++run.commits_missing;
    to_shard(rank, make_message(proto::COMMIT_ADAPTER, version));
  }
  ++shard_commits_;
}

StoredElsewhere Engine::stored_elsewhere(const JobRun& run) const {
  StoredElsewhere stored{run.head.version, {}, {}};
  const auto& specs = run.job->method->tensors();
  for (size_t i = 0; i < specs.size(); ++i) {
    stored.tensors.push_back({int64_t(i), specs[i].name, specs[i].shape, run.shard_of[i]});
    stored.moments.push_back(int(moment_count(run.train())));
  }
  return stored;
}

void Engine::take_committed(const Message& message) {
  const auto header = read_header<proto::AdapterVersion>(message);
  const auto it = jobs_.find(header.job());
  if (it == jobs_.end() || !it->second->under_way ||
      it->second->under_way->head.version != header.version()) {
    throw failed("rank {} committed version {} of job {}, which was not asked for", message.from,
                 header.version(), header.job());
  }
  JobRun& run = *it->second;
  if (--run.commits_missing > 0) return;
  store_.submit(std::move(*run.under_way));
  run.under_way.reset();
  --shard_commits_;
}

void Engine::take_durable() {
  const auto durable = store_.poll();
  for (const auto& [name, took_here] : durable) {
    JobRun& run = *jobs_.at(name);
    const double took = own_shard_ ? took_here : steady_seconds() - run.commit_began_seconds;
    run.saving = false;
    --saving_;
    run.saved_changes = run.changes_under_way;
    if (run.unsaved()) unsaved_.insert(&run);
    const bool told_since = run.changes_under_way < run.told_changes;
    if (run.durable_state != run.state_under_way && !told_since) {
      run.durable_state = run.state_under_way;
      tell(JobEvent::Kind::kState, run);
    }
    if (run.version_under_way > run.saved_version) {
      run.saved_version = run.version_under_way;
      proto::AdapterVersion older;
      older.set_job(name);
      older.set_version(run.saved_version);
      if (!own_shard_) {
        // To all: after a change of their number one may have a version of which it owns nothing any more.
        for (int rank : shard_ranks_) to_shard(rank, make_message(proto::RELEASE_VERSIONS, older));
      }
    }
    next_commit_seconds_ = std::max(next_commit_seconds_, seconds() + kPauses * took);
    note_span("commit", steady_seconds() - took, run);
    if (run.phase == Phase::kFinishing && !run.unsaved()) fetch(run);
    if (run.phase == Phase::kWaiting && !stopping_) advance(run);
    leave_if_done(run);
  }
  if (!durable.empty() || std::exchange(new_waiters_, false)) tell_waiters();
}

void Engine::tell_waiters() {
  std::vector<std::function<void()>> done;
  std::erase_if(waiters_, [&](Waiter& waiter) {
    for (const auto& [name, changes] : waiter.changes) {
      if (jobs_.at(name)->saved_changes < changes) return false;
    }
    done.push_back(std::move(waiter.done));
    return true;
  });
  for (const auto& call : done) call();
}

void Engine::when_durable(const std::vector<std::string>& jobs, std::function<void()> done) {
  Waiter waiter{{}, std::move(done)};
  for (const std::string& name : jobs) {
    JobRun& run = known(name);
    waiter.changes[name] = run.changes;
    hurry(run);
  }
  waiters_.push_back(std::move(waiter));
  new_waiters_ = true;
}

void Engine::changed(JobRun& run) {
  ++run.changes;
  if (!run.saving) unsaved_.insert(&run);
}

void Engine::add_metric(JobRun& run, std::string line) {
  metrics_.write(line);
  run.unsaved_metrics.push_back({next_metric_++, std::move(line)});
  changed(run);
}

void Engine::tell(JobEvent::Kind kind, const JobRun& run) {
  if (on_event_) on_event_({kind, &run});
}

}  // namespace coppice
