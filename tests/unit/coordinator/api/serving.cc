#include "tests/unit/coordinator/api/serving.h"

#include <chrono>

#include "tests/unit/common/net/sockets.h"

namespace coppice {

JobStatus running(const std::string& name, int64_t ordinal) {
  JobStatus job;
  job.name = name;
  job.ordinal = ordinal;
  job.state = JobState::kRunning;
  job.total_steps = 10;
  job.trainable_parameters = 1000;
  return job;
}

JobStatus& ScriptedControl::job(const std::string& name) {
  for (JobStatus& job : jobs) {
    if (job.name == name) return job;
  }
  throw not_found("there is no job {}", name);
}

void ScriptedControl::change(const std::string& name, JobState state) {
  JobStatus& changed = job(name);
  if (has_ended(changed.state)) {
    throw invalid("job {} is {}; a job that has not ended is accepted", name, job_state_name(changed.state));
  }
  changed.state = state;
}

SubmitResult ScriptedControl::result_of(const Submission& submission) {
  SubmitResult result;
  for (const std::string& keys : submission.jobs) {
    if (keys == "bad") return {{}, invalid("submit: jobs.bad: learning_rate is -1")};
    jobs.push_back(running(keys, int64_t(jobs.size())));
    result.jobs.push_back({keys, 10, 1000, 16000});
  }
  return result;
}

void ScriptedControl::submit(uint64_t, Submission submission, std::function<void(SubmitResult)> done) {
  if (submission.backbone != "/backbone")
    throw invalid("{}: is not the backbone of this server", submission.backbone);
  if (!waits) return done(result_of(submission));
  waiting.emplace_back(std::move(submission), std::move(done));
}

void ScriptedControl::answer_all() {
  for (auto& [submission, done] : std::exchange(waiting, {})) done(result_of(submission));
}

ServedJobs::ServedJobs(JobServiceLimits limits)
    : server_(any_port()), service_(server_, control_, kToken, limits), main_([this](std::stop_token stop) {
        while (!stop.stop_requested()) {
          {
            const std::lock_guard lock(mutex_);
            if (service_.poll()) continue;
          }
          std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
      }) {}

ServedJobs::~ServedJobs() {
  main_.request_stop();
  main_.join();
}

JobClientOptions ServedJobs::options() const {
  JobClientOptions options;
  options.server = server_.address();
  options.token = kToken;
  options.reply_ms = options.submit_ms = 10000;
  return options;
}

void ServedJobs::on_main(const std::function<void(ScriptedControl&, JobService&)>& body) {
  const std::lock_guard lock(mutex_);
  body(control_, service_);
}

bool ServedJobs::until(const std::function<bool(ScriptedControl&, JobService&)>& body) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (std::chrono::steady_clock::now() < deadline) {
    {
      const std::lock_guard lock(mutex_);
      if (body(control_, service_)) return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

void ServedJobs::tell(const std::string& job, JobNews::Kind kind,
                      const std::function<void(JobStatus&)>& change) {
  on_main([&](ScriptedControl& control, JobService& service) {
    JobStatus& status = control.job(job);
    change(status);
    service.event({kind, status, 0.5, 1e-3});
  });
}

}  // namespace coppice
