#pragma once
// The engine as a server of jobs sees it: submissions are read and their data tokenized on threads of their
// own while training goes on; what was changed is answered when it is durable. Some are prepared at a time,
// of different clients, so that one who submits much data holds up no other. The memory that each may take is
// taken from what jobs may have meanwhile: data that does not fit there is refused before it is all read.
//
// Thread: main. Errors: as JobControl says; poll() lets out what ends the engine.

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/api/job_control.h"
#include "coordinator/engine.h"

namespace coppice {

class EngineControl : public JobControl {
 public:
  // output: the run folder, which messages name. Throws kExhausted where the system gives it no threads.
  EngineControl(Engine& engine, const Backbone& backbone, const std::string& output);
  ~EngineControl() override;

  void submit(uint64_t client, Submission submission, std::function<void(SubmitResult)> done) override;
  void cancel(const std::string& job, std::function<void()> done) override;
  void pause(const std::string& job, std::function<void()> done) override;
  void resume(const std::string& job, std::function<void()> done) override;
  std::vector<JobStatus> list() const override;

  bool poll();  // takes in what has been prepared; false where there was nothing
  JobStatus status(const JobRun& run) const;
  std::string way_to_retry(const JobRun& run) const;  // of one that failed; empty otherwise

 private:
  struct Request {
    uint64_t client = 0;
    Submission submission;
    std::function<void(SubmitResult)> done;
    std::vector<std::unique_ptr<PreparedJob>> jobs;
    std::optional<Error> error;
    int64_t reserved_bytes = 0;
  };
  void end_threads();
  void hand_over();
  void prepare_all();
  bool stopping() const;
  void prepare(Request& request) const;
  void check_new(const PreparedJob& job) const;
  void add(Request request);

  Engine& engine_;
  const Backbone& backbone_;
  std::string retry_command_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> waiting_;            // of the main thread alone
  std::set<uint64_t> clients_;             // of whom one is being prepared
  std::deque<Request> handed_, prepared_;  // guarded by mutex_, as is stopping_
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // last: begin when all else is there
};

}  // namespace coppice
