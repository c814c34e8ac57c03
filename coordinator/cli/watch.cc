#include "coordinator/cli/watch.h"

#include <cstdio>

namespace coppice {
namespace {

void print(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

std::string state_line(const JobStatus& job) {
  std::string line =
      fmt::format("{}: {} at step {}/{}", job.name, job_state_name(job.state), job.step, job.total_steps);
  if (!job.reason.empty()) line += ": " + job.reason;
  return line;
}

// How a job stands when the watching begins.
std::string standing_line(const JobStatus& job) {
  std::string line = state_line(job);
  if (has_ended(job.state)) return line;
  if (job.loss) line += fmt::format(" loss {:.4f}", *job.loss);
  if (job.eval_loss) line += fmt::format(" eval_loss {:.4f}", *job.eval_loss);
  if (job.tokens_per_second > 0) line += fmt::format(", {:.0f} tokens/s", job.tokens_per_second);
  if (job.seconds_left) line += fmt::format(", {:.0f} s left", *job.seconds_left);
  return line;
}

std::string news_line(const JobNews& news) {
  const JobStatus& job = news.job;
  switch (news.kind) {
    case JobNews::Kind::kStep:
      return fmt::format("{}: step {}/{} loss {:.4f} grad_norm {:.4f} learning_rate {:.4g}", job.name,
                         job.step, job.total_steps, job.loss.value_or(0), news.grad_norm, news.learning_rate);
    case JobNews::Kind::kEvaluation:
      return fmt::format("{}: step {} eval_loss {:.4f}", job.name, job.step, job.eval_loss.value_or(0));
    case JobNews::Kind::kState:
      break;
  }
  return state_line(job);
}

// Which of the jobs that are waited for have ended, and how.
class Outcome {
 public:
  explicit Outcome(const std::set<std::string>& jobs) : open_(jobs) {}

  bool open() const { return !open_.empty(); }
  bool failed() const { return failed_; }
  void take(const JobStatus& job) {
    if (!has_ended(job.state) || open_.erase(job.name) == 0) return;
    failed_ |= job.state != JobState::kDone;
  }

 private:
  std::set<std::string> open_;
  bool failed_ = false;
};

}  // namespace

int watch_jobs(JobClient& client, const std::set<std::string>& jobs) {
  Outcome outcome(jobs);
  const std::optional<std::string> only = jobs.size() == 1 ? std::optional(*jobs.begin()) : std::nullopt;
  client.watch(
      only,
      [&](const std::vector<JobStatus>& now) {
        for (const JobStatus& job : now) {
          if (!jobs.contains(job.name)) continue;
          print(standing_line(job));
          outcome.take(job);
        }
        return outcome.open();
      },
      [&](const JobNews& news) {
        if (!jobs.contains(news.job.name)) return true;
        print(news_line(news));
        if (news.kind == JobNews::Kind::kState) outcome.take(news.job);
        return outcome.open();
      });
  return outcome.failed() ? 1 : 0;
}

int watch_server(const ServerOptions& server, const std::optional<std::string>& job) {
  JobClient client = connect(server);
  if (job) return watch_jobs(client, {*job});
  client.watch(
      std::nullopt,
      [](const std::vector<JobStatus>& now) {
        for (const JobStatus& each : now) print(standing_line(each));
        return true;
      },
      [](const JobNews& news) {
        print(news_line(news));
        return true;
      });
  return 0;
}

}  // namespace coppice
