#pragma once
// The server's side of proto/rpc.proto: takes requests from an RpcServer, asks a JobControl, answers, and
// tells those who watch what happens. A client is let in by a Hello of the right version with the right
// token; every later request bears the token too. What one client does wrong ends that client; what it asks
// for is bounded, so it cannot use up the server.
//
// Life of a request: submit is answered when JobControl is done, watch with events until its end, the rest at
// once. A client that is gone gets no answers; what it submitted goes on.
//
// Thread: main. Ownership: borrows server and control, which must outlive it. Errors: none for what clients
// do; what JobControl throws as Error becomes an answer.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/net/rpc_server.h"
#include "coordinator/api/job_control.h"

namespace coppice::proto {
class Request;
class Reply;
class Submit;
class Watch;
}  // namespace coppice::proto

namespace coppice {

// Something that has happened to a job, for who watches.
struct JobNews {
  enum class Kind { kState, kStep, kEvaluation };
  Kind kind = Kind::kState;
  JobStatus job;                            // as it is then
  double grad_norm = 0, learning_rate = 0;  // of a step
};

struct JobServiceLimits {
  size_t submits = 4;                       // of one client, not answered yet
  size_t watches = 16;                      // of one client
  size_t submit_bytes = size_t(256) << 20;  // of all clients, not answered yet
};

class JobService {
 public:
  JobService(RpcServer& server, JobControl& control, std::string token, JobServiceLimits limits = {});
  ~JobService();
  JobService(const JobService&) = delete;
  JobService& operator=(const JobService&) = delete;

  bool poll();           // takes some of what has come; false where there was nothing
  bool watched() const;  // whether event() has anybody to tell
  // For every step, evaluation and change of state, in their order. What it tells is a promise: a state that
  // ends a job comes when it is durable.
  void event(const JobNews& news);

 private:
  struct Watching {
    uint64_t request = 0;
    std::optional<std::string> job;
  };
  struct Client {
    bool accepted = false;
    size_t submits = 0;
    std::vector<Watching> watches;
  };

  void take(uint64_t client, const std::string& message);
  void answer(uint64_t client, const proto::Request& request);
  void hello(uint64_t client, const proto::Request& request);
  void submit(uint64_t client, uint64_t request, const proto::Submit& submit);
  void submitted(uint64_t client, uint64_t request, size_t bytes, const SubmitResult& result);
  void list(uint64_t client, uint64_t request);
  void watch(uint64_t client, uint64_t request, const proto::Watch& watch);
  void reply(uint64_t client, uint64_t request, proto::Reply& reply);
  std::function<void()> when_done(uint64_t client, uint64_t request);
  void done(uint64_t client, uint64_t request);
  void refuse(uint64_t client, uint64_t request, const Error& error);
  void send_away(uint64_t client, uint64_t request, const Error& error);

  RpcServer& server_;
  JobControl& control_;
  const std::string token_;
  const JobServiceLimits limits_;
  std::map<uint64_t, Client> clients_;
  size_t submit_bytes_ = 0;
  std::shared_ptr<JobService*> self_;  // answers that come after this has gone find it empty
};

}  // namespace coppice
