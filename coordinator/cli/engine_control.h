#pragma once
// The engine as a server of jobs sees it: submissions are read and their data tokenized on a thread of their
// own while training goes on; what was changed is answered when it is durable.
//
// Thread: main. Errors: as JobControl says; poll() lets out what ends the engine.

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/api/job_control.h"
#include "coordinator/cli/pace.h"
#include "coordinator/engine.h"

namespace coppice {

class EngineControl : public JobControl {
 public:
  EngineControl(Engine& engine, const Backbone& backbone);
  ~EngineControl() override;

  void submit(Submission submission, std::function<void(SubmitResult)> done) override;
  void cancel(const std::string& job, std::function<void()> done) override;
  void pause(const std::string& job, std::function<void()> done) override;
  void resume(const std::string& job, std::function<void()> done) override;
  std::vector<JobStatus> list() const override;

  bool poll();  // takes in what has been prepared; false where there was nothing
  JobStatus status(const JobRun& run) const;

 private:
  struct Request {
    Submission submission;
    std::function<void(SubmitResult)> done;
    std::vector<std::unique_ptr<PreparedJob>> jobs;
    std::optional<Error> error;
  };
  void prepare_all();
  bool stopping() const;
  void prepare(Request& request) const;
  void add(Request request);

  Engine& engine_;
  const Backbone& backbone_;
  Pace pace_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> waiting_, prepared_;
  bool stopping_ = false;
  std::thread thread_;  // last: begins when all else is there
};

}  // namespace coppice
