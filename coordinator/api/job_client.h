#pragma once
// The client's side of proto/rpc.proto: one connection to a server that takes jobs; each call asks and waits
// for the answer. Thread: one at a time. Errors: as RpcClient, and what the server answers, each one line
// that begins with HOST:PORT; none of them is kFailed, which is a job's.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/api/job_control.h"
#include "coordinator/api/job_service.h"

namespace coppice::proto {
class Request;
class Reply;
}  // namespace coppice::proto

namespace coppice {

class RpcClient;

struct JobClientOptions {
  std::string server = "127.0.0.1:7420";
  std::string token;
  int reply_ms = 60'000;
  int submit_ms = 3'600'000;  // the server reads and tokenizes the jobs' data before it answers
};

class JobClient {
 public:
  explicit JobClient(const JobClientOptions& options);  // greets the server
  ~JobClient();

  std::vector<AcceptedJob> submit(const Submission& submission);
  std::vector<JobStatus> list();
  void cancel(const std::string& job);
  void pause(const std::string& job);
  void resume(const std::string& job);

  // How all that is watched stands now, then every event, until job has ended or on_event says false, after
  // which this client is of no further use. job: absent for all.
  void watch(const std::optional<std::string>& job,
             const std::function<bool(const std::vector<JobStatus>&)>& on_now,
             const std::function<bool(const JobNews&)>& on_event);

 private:
  uint64_t send(proto::Request& request);
  proto::Reply receive(uint64_t request, int timeout_ms);
  proto::Reply ask(proto::Request& request, int timeout_ms);
  Error unexpected() const;

  const JobClientOptions options_;
  std::unique_ptr<RpcClient> connection_;
  uint64_t last_request_ = 0;
};

}  // namespace coppice
