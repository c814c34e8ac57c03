#include "coordinator/api/job_service.h"

#include <algorithm>
#include <new>
#include <utility>

#include "common/base/check.h"
#include "coordinator/api/messages.h"
#include "coordinator/api/token.h"
#include "proto/rpc.pb.h"

namespace coppice {
namespace {

constexpr int kMessagesAtOnce = 32;  // of one poll, so that training goes on between them

std::string known_jobs(const std::vector<JobStatus>& jobs) {
  constexpr size_t kShown = 10;
  std::string names;
  for (size_t i = 0; i < std::min(jobs.size(), kShown); ++i) names += (i > 0 ? ", " : "") + jobs[i].name;
  if (jobs.size() > kShown) names += fmt::format(" and {} more", jobs.size() - kShown);
  return names.empty() ? "none" : names;
}

}  // namespace

JobService::JobService(RpcServer& server, JobControl& control, std::string token, JobServiceLimits limits)
    : server_(server),
      control_(control),
      token_(std::move(token)),
      limits_(limits),
      self_(std::make_shared<JobService*>(this)) {
  CHECK(!token_.empty());
}

JobService::~JobService() = default;

bool JobService::poll() {
  for (int i = 0; i < kMessagesAtOnce; ++i) {
    const auto incoming = server_.poll();
    if (!incoming) return i > 0;
    switch (incoming->kind) {
      case Incoming::Kind::kOpened:
        clients_.emplace(incoming->client, Client{});
        break;
      case Incoming::Kind::kMessage:
        take(incoming->client, incoming->message);
        break;
      case Incoming::Kind::kClosed:
        clients_.erase(incoming->client);
        break;
    }
  }
  return true;
}

void JobService::take(uint64_t client, const std::string& message) {
  if (!clients_.contains(client)) return;
  proto::Request request;
  try {
    if (!request.ParseFromString(message)) {
      return send_away(client, 0, invalid("what came is no request; proto/rpc.proto says what one is"));
    }
    if (!same_token(token_, request.token())) {
      return send_away(
          client, request.id(),
          invalid("the token is {}; --token-file FILE, with the file token of the server's folder, or "
                  "COPPICE_TOKEN gives it",
                  request.token().empty() ? "missing" : "wrong"));
    }
    answer(client, request);
  } catch (const Error& error) {
    refuse(client, request.id(), error);
  } catch (const std::bad_alloc&) {
    refuse(client, request.id(), Error(ErrorCode::kExhausted, "the server has no memory for this request"));
  }
}

void JobService::answer(uint64_t client, const proto::Request& request) {
  const uint64_t id = request.id();
  if (!clients_.at(client).accepted) return hello(client, request);
  switch (request.what_case()) {
    case proto::Request::kHello:
      return hello(client, request);
    case proto::Request::kSubmit:
      return submit(client, id, request.submit());
    case proto::Request::kList:
      return list(client, id);
    case proto::Request::kWatch:
      return watch(client, id, request.watch());
    case proto::Request::kCancel:
      return control_.cancel(request.cancel().job(), when_done(client, id));
    case proto::Request::kPause:
      return control_.pause(request.pause().job(), when_done(client, id));
    case proto::Request::kResume:
      return control_.resume(request.resume().job(), when_done(client, id));
    case proto::Request::WHAT_NOT_SET:
      break;
  }
  refuse(client, id, unsupported("the request asks for nothing that this server knows"));
}

std::function<void()> JobService::when_done(uint64_t client, uint64_t request) {
  return [self = std::weak_ptr(self_), client, request] {
    if (const auto service = self.lock()) (*service)->done(client, request);
  };
}

void JobService::hello(uint64_t client, const proto::Request& request) {
  if (!request.has_hello())
    return send_away(client, request.id(), invalid("the first request is not a hello"));
  const uint32_t version = request.hello().version();
  if (version != uint32_t(proto::RPC_VERSION)) {
    return send_away(client, request.id(),
                     unsupported("the client speaks version {} of the requests; this server speaks {}",
                                 version, int(proto::RPC_VERSION)));
  }
  clients_.at(client).accepted = true;
  server_.accept(client);
  proto::Reply welcome;
  welcome.mutable_welcome()->set_version(proto::RPC_VERSION);
  reply(client, request.id(), welcome);
}

void JobService::submit(uint64_t client, uint64_t request, const proto::Submit& submit) {
  Client& from = clients_.at(client);
  if (from.submits >= limits_.submits) {
    throw Error(
        ErrorCode::kBusy,
        fmt::format("{} submissions of this client wait for their answer, as many as may", from.submits));
  }
  const size_t bytes = submit.ByteSizeLong();
  if (submit_bytes_ > 0 && submit_bytes_ + bytes > limits_.submit_bytes) {
    throw Error(
        ErrorCode::kBusy,
        fmt::format("submissions of {} bytes wait for their answer; with this one's {} bytes they would be "
                    "more than {}; try again later",
                    submit_bytes_, bytes, limits_.submit_bytes));
  }
  Submission submission{submit.backbone(), {submit.jobs().begin(), submit.jobs().end()}};
  ++from.submits;
  submit_bytes_ += bytes;
  try {
    control_.submit(client, std::move(submission),
                    [self = std::weak_ptr(self_), client, request, bytes](const SubmitResult& result) {
                      if (const auto service = self.lock())
                        (*service)->submitted(client, request, bytes, result);
                    });
  } catch (const Error& error) {
    submitted(client, request, bytes, {{}, error});
  }
}

void JobService::submitted(uint64_t client, uint64_t request, size_t bytes, const SubmitResult& result) {
  submit_bytes_ -= bytes;
  const auto from = clients_.find(client);
  if (from == clients_.end()) return;
  --from->second.submits;
  if (result.refused) return refuse(client, request, *result.refused);
  proto::Reply accepted;
  for (const AcceptedJob& job : result.jobs) {
    auto* message = accepted.mutable_submitted()->add_jobs();
    message->set_name(job.name);
    message->set_total_steps(job.total_steps);
    message->set_trainable_parameters(job.trainable_parameters);
    message->set_memory_bytes(job.memory_bytes);
  }
  reply(client, request, accepted);
}

void JobService::list(uint64_t client, uint64_t request) {
  proto::Reply jobs;
  jobs.mutable_jobs();
  for (const JobStatus& job : control_.list()) *jobs.mutable_jobs()->add_jobs() = to_message(job);
  reply(client, request, jobs);
}

void JobService::watch(uint64_t client, uint64_t request, const proto::Watch& watch) {
  auto& watches = clients_.at(client).watches;
  if (watches.size() >= limits_.watches) {
    throw Error(ErrorCode::kBusy,
                fmt::format("this client watches {} times already, as often as may be", watches.size()));
  }
  const std::vector<JobStatus> jobs = control_.list();
  proto::Reply now;
  now.mutable_jobs();
  bool ended = false;
  for (const JobStatus& job : jobs) {
    if (watch.has_job() && watch.job() != job.name) continue;
    *now.mutable_jobs()->add_jobs() = to_message(job);
    ended = watch.has_job() && has_ended(job.state);
  }
  if (watch.has_job() && now.jobs().jobs().empty()) {
    throw not_found("there is no job {}; there is {}", one_line(watch.job(), 200), known_jobs(jobs));
  }
  reply(client, request, now);
  if (ended) return done(client, request);
  watches.push_back({request, watch.has_job() ? std::optional(watch.job()) : std::nullopt});
}

bool JobService::watched() const {
  return std::any_of(clients_.begin(), clients_.end(),
                     [](const auto& client) { return !client.second.watches.empty(); });
}

void JobService::event(const JobNews& news) {
  if (!watched()) return;
  proto::Reply message;
  *message.mutable_event() = to_message(news);
  const bool ended = news.kind == JobNews::Kind::kState && has_ended(news.job.state);
  for (auto& [id, client] : clients_) {
    for (const Watching& watching : client.watches) {
      if (watching.job && *watching.job != news.job.name) continue;
      reply(id, watching.request, message);
      if (ended && watching.job) done(id, watching.request);
    }
    if (ended) std::erase_if(client.watches, [&](const Watching& each) { return each.job == news.job.name; });
  }
}

void JobService::reply(uint64_t client, uint64_t request, proto::Reply& reply) {
  reply.set_id(request);
  server_.send(client, reply.SerializeAsString());
}

void JobService::done(uint64_t client, uint64_t request) {
  proto::Reply message;
  message.mutable_done();
  reply(client, request, message);
}

void JobService::refuse(uint64_t client, uint64_t request, const Error& error) {
  proto::Reply message;
  *message.mutable_error() = to_message(error);
  reply(client, request, message);
}

void JobService::send_away(uint64_t client, uint64_t request, const Error& error) {
  proto::Reply message;
  message.set_id(request);
  *message.mutable_error() = to_message(error);
  clients_.erase(client);
  server_.close(client, message.SerializeAsString());
}

}  // namespace coppice
