#include "coordinator/cli/engine_control.h"

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

#include "common/base/error.h"
#include "common/io/json.h"
#include "coordinator/cli/run_folder.h"

namespace coppice {
namespace {

constexpr size_t kMostWaiting = 1024;  // submissions
constexpr size_t kTogether = 4;        // that are prepared at a time

}  // namespace

EngineControl::EngineControl(Engine& engine, const Backbone& backbone, const std::string& output)
    : engine_(engine), backbone_(backbone), retry_command_(retry_command(output)) {
  try {
    for (size_t i = 0; i < kTogether; ++i) threads_.emplace_back([this] { prepare_all(); });
  } catch (const std::exception& error) {  // those that there are must end before they are destroyed
    end_threads();
    throw Error(ErrorCode::kExhausted, fmt::format("{} threads that read submissions cannot be started: {}",
                                                   kTogether, error.what()));
  }
}

EngineControl::~EngineControl() {
  end_threads();
}

void EngineControl::end_threads() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void EngineControl::submit(uint64_t client, Submission submission, std::function<void(SubmitResult)> done) {
  while (submission.backbone.size() > 1 && submission.backbone.ends_with('/')) submission.backbone.pop_back();
  if (submission.backbone != backbone_.path) {
    throw invalid("backbone is {}; this server has {}", shown(std::string_view(submission.backbone)),
                  backbone_.path);
  }
  if (waiting_.size() >= kMostWaiting)
    throw Error(ErrorCode::kExhausted,
                fmt::format("{} submissions wait already; try again later", kMostWaiting));
  waiting_.push_back({client, std::move(submission), std::move(done), {}, std::nullopt, 0});
  hand_over();
}

void EngineControl::hand_over() {
  for (auto next = waiting_.begin(); next != waiting_.end() && clients_.size() < kTogether;) {
    if (!clients_.insert(next->client).second) {
      ++next;
      continue;
    }
    next->reserved_bytes = std::max<int64_t>(0, engine_.free_bytes() / 2);
    engine_.reserve_bytes(next->reserved_bytes);
    {
      std::lock_guard lock(mutex_);
      handed_.push_back(std::move(*next));
    }
    changed_.notify_one();
    next = waiting_.erase(next);
  }
}

void EngineControl::prepare_all() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !handed_.empty(); });
    if (stopping_) return;
    Request request = std::move(handed_.front());
    handed_.pop_front();
    lock.unlock();
    prepare(request);
    lock.lock();
    prepared_.push_back(std::move(request));
  }
}

bool EngineControl::stopping() const {
  std::lock_guard lock(mutex_);
  return stopping_;
}

void EngineControl::prepare(Request& request) const {
  try {
    Preparation preparation(backbone_, request.reserved_bytes);
    for (const JobSpec& spec : read_submission(request.submission).jobs) {
      if (stopping()) throw failed("the server is stopping");
      request.jobs.push_back(preparation.prepare(spec));
    }
  } catch (const Error& error) {
    request.error = error;
  } catch (const std::bad_alloc&) {
    request.error = Error(ErrorCode::kExhausted, "the server has no memory for this submission");
  } catch (const std::exception& error) {
    request.error = failed("{}", error.what());
  }
}

bool EngineControl::poll() {
  std::deque<Request> prepared;
  {
    std::lock_guard lock(mutex_);
    prepared.swap(prepared_);
  }
  for (Request& request : prepared) {
    engine_.reserve_bytes(-request.reserved_bytes);
    clients_.erase(request.client);
    add(std::move(request));
  }
  if (!prepared.empty()) hand_over();
  return !prepared.empty();
}

void EngineControl::check_new(const PreparedJob& job) const {
  const auto known = engine_.jobs().find(job.spec.name);
  const std::string way = known == engine_.jobs().end() ? "" : way_to_retry(*known->second);
  if (way.empty()) return engine_.check_new(job);
  throw invalid("job {}: there is one of that name already, which failed; {}; another name makes a new job",
                job.spec.name, way);
}

// All or none: what could refuse one is asked of all first.
void EngineControl::add(Request request) {
  SubmitResult result;
  try {
    if (request.error) throw *request.error;
    for (const auto& job : request.jobs) check_new(*job);
  } catch (const Error& error) {
    result.refused = error;
    return request.done(std::move(result));
  }
  std::vector<std::string> names;
  for (auto& job : request.jobs) {
    const std::string name = job->spec.name;
    const int64_t bytes = engine_.memory_bytes(*job);
    engine_.submit(std::move(job), std::nullopt);
    const JobRecord& record = engine_.job(name).record;
    result.jobs.push_back({name, record.total_steps, record.trainable_parameters, bytes});
    names.push_back(name);
  }
  engine_.when_durable(names, [done = std::move(request.done), result = std::move(result)] { done(result); });
}

void EngineControl::cancel(const std::string& job, std::function<void()> done) {
  engine_.cancel(job);
  engine_.when_durable({job}, std::move(done));
}

void EngineControl::pause(const std::string& job, std::function<void()> done) {
  engine_.pause(job);
  engine_.when_durable({job}, std::move(done));
}

void EngineControl::resume(const std::string& job, std::function<void()> done) {
  engine_.resume(job);
  engine_.when_durable({job}, std::move(done));
}

std::vector<JobStatus> EngineControl::list() const {
  std::vector<JobStatus> jobs;
  for (const auto& [name, run] : engine_.jobs()) jobs.push_back(status(*run));
  std::sort(jobs.begin(), jobs.end(), [](const auto& a, const auto& b) { return a.ordinal < b.ordinal; });
  return jobs;
}

std::string EngineControl::way_to_retry(const JobRun& run) const {
  if (run.record.state != JobState::kFailed) return {};
  if (run.shown_only) return "the next start of the server tries again";
  return "once the cause is gone and the server has stopped, " + retry_command_ + " goes on with it";
}

JobStatus EngineControl::status(const JobRun& run) const {
  JobStatus status;
  status.name = run.name();
  status.ordinal = run.record.ordinal;
  status.state = run.durable_state;
  status.reason = run.record.reason;
  if (const std::string way = way_to_retry(run); !way.empty()) status.reason += "; " + way;
  status.step = run.head.version;
  status.total_steps = run.record.total_steps;
  if (run.head.version > 0) status.loss = run.head.loss;
  if (run.head.evaluated >= 0) status.eval_loss = run.head.eval_loss;
  status.trainable_parameters = run.record.trainable_parameters;
  status.tokens = run.head.tokens;
  if (!run.ended()) {
    status.tokens_per_second = run.pace.tokens_per_second(engine_.seconds(), run.head);
    status.seconds_left = run.pace.seconds_left(engine_.seconds(), run.head, run.record.total_steps);
  }
  return status;
}

}  // namespace coppice
