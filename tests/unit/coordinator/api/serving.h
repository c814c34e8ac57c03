#pragma once
// What the tests of the job service share: a scripted JobControl and a main thread that serves it over a real
// socket.

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/net/rpc_server.h"
#include "coordinator/api/job_client.h"
#include "coordinator/api/job_service.h"

namespace coppice {

// Jobs that do what the test says. A submission is answered when the test says so, or at once.
class ScriptedControl : public JobControl {
 public:
  void submit(uint64_t client, Submission submission, std::function<void(SubmitResult)> done) override;
  void cancel(const std::string& job, std::function<void()> done) override {
    change(job, JobState::kCancelled);
    done();
  }
  void pause(const std::string& job, std::function<void()> done) override {
    change(job, JobState::kPaused);
    done();
  }
  void resume(const std::string& job, std::function<void()> done) override {
    change(job, JobState::kRunning);
    done();
  }
  std::vector<JobStatus> list() const override { return jobs; }

  JobStatus& job(const std::string& name);  // kNotFound
  void answer_all();                        // the submissions that wait

  bool waits = false;  // submissions do, until answer_all()
  std::vector<JobStatus> jobs;
  std::vector<std::pair<Submission, std::function<void(SubmitResult)>>> waiting;

 private:
  void change(const std::string& name, JobState state);
  SubmitResult result_of(const Submission& submission);
};

inline const std::string kToken(64, '7');

// A server, its service and the thread that drives both, as the coordinator's main thread does.
class ServedJobs {
 public:
  explicit ServedJobs(JobServiceLimits limits = {});
  ~ServedJobs();

  JobClientOptions options() const;
  uint16_t port() const { return server_.port(); }
  // Runs body on the main thread and waits for it.
  void on_main(const std::function<void(ScriptedControl&, JobService&)>& body);
  // Waits, at most ten seconds, until what body says on the main thread is so.
  bool until(const std::function<bool(ScriptedControl&, JobService&)>& body);
  void tell(const std::string& job, JobNews::Kind kind, const std::function<void(JobStatus&)>& change);

 private:
  RpcServer server_;
  ScriptedControl control_;
  JobService service_;
  std::mutex mutex_;  // held by the main thread while it works
  std::jthread main_;
};

JobStatus running(const std::string& name, int64_t ordinal);

}  // namespace coppice
