#pragma once
// What a server of jobs needs of whoever runs them, and nothing more: the seam between the network
// (job_service.h) and the engine, so that each can be tested without the other.
//
// Thread: main, all of it, done included; no call may wait. Errors: as said at each; a thrown Error becomes
// the answer to that one request.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/base/error.h"
#include "coordinator/api/submission.h"
#include "coordinator/params/checkpoint.h"

namespace coppice {

struct JobStatus {
  std::string name;
  int64_t ordinal = 0;  // order of submission
  JobState state = JobState::kQueued;
  std::string reason;  // of a failure, or why it waits
  int64_t step = 0, total_steps = 0;
  std::optional<double> loss;       // of the last step
  std::optional<double> eval_loss;  // of the last evaluation
  int64_t trainable_parameters = 0;
  int64_t tokens = 0;  // trained on
  double tokens_per_second = 0;
  std::optional<double> seconds_left;
};

// done, failed, cancelled: nothing more will happen to it.
bool has_ended(JobState state);

struct AcceptedJob {
  std::string name;
  int64_t total_steps = 0;
  int64_t trainable_parameters = 0;
  int64_t memory_bytes = 0;  // parameters, optimizer's state, gradients
};

struct SubmitResult {
  std::vector<AcceptedJob> jobs;  // all that were asked for, in their order
  std::optional<Error> refused;   // then there are none: one bad job refuses all
};

class JobControl {
 public:
  virtual ~JobControl() = default;

  // Checks and prepares the jobs somewhere else (read_submission, then reading and tokenizing data, may take
  // minutes) while training goes on, then adds all or none. Submissions of one client follow each other,
  // those of several are prepared beside each other. done is called once, on the main thread, perhaps before
  // submit returns, and where jobs were added not before that is durable: it is the answer that the client
  // takes for a promise. It stays callable for ever, also when the client or the service is gone. Throws what
  // can be refused at once; then done is not called.
  virtual void submit(uint64_t client, Submission submission, std::function<void(SubmitResult)> done) = 0;

  // kNotFound naming the job, kInvalid where its state does not allow it, naming the state. done: as for
  // submit, called when the change is durable.
  virtual void cancel(const std::string& job, std::function<void()> done) = 0;
  virtual void pause(const std::string& job, std::function<void()> done) = 0;
  virtual void resume(const std::string& job, std::function<void()> done) = 0;

  virtual std::vector<JobStatus> list() const = 0;  // by ordinal
};

}  // namespace coppice
