#include "coordinator/api/job_client.h"

#include "common/net/rpc_client.h"
#include "coordinator/api/messages.h"
#include "proto/rpc.pb.h"

namespace coppice {
namespace {

constexpr int kForEver = -1;

RpcClientOptions connection_options(const JobClientOptions& options) {
  RpcClientOptions connection;
  connection.server = options.server;
  return connection;
}

std::vector<JobStatus> from_message(const proto::Jobs& message) {
  std::vector<JobStatus> jobs;
  for (const auto& job : message.jobs()) jobs.push_back(coppice::from_message(job));
  return jobs;
}

}  // namespace

JobClient::JobClient(const JobClientOptions& options)
    : options_(options), connection_(std::make_unique<RpcClient>(connection_options(options))) {
  proto::Request request;
  request.mutable_hello()->set_version(proto::RPC_VERSION);
  if (!ask(request, options_.reply_ms).has_welcome()) throw unexpected();
}

JobClient::~JobClient() = default;

std::vector<AcceptedJob> JobClient::submit(const Submission& submission) {
  proto::Request request;
  request.mutable_submit()->set_backbone(submission.backbone);
  for (const std::string& job : submission.jobs) request.mutable_submit()->add_jobs(job);
  const proto::Reply reply = ask(request, options_.submit_ms);
  if (!reply.has_submitted()) throw unexpected();
  std::vector<AcceptedJob> jobs;
  for (const auto& job : reply.submitted().jobs()) {
    jobs.push_back({one_line(job.name()), job.total_steps(), job.trainable_parameters(), job.memory_bytes()});
  }
  return jobs;
}

std::vector<JobStatus> JobClient::list() {
  proto::Request request;
  request.mutable_list();
  const proto::Reply reply = ask(request, options_.reply_ms);
  if (!reply.has_jobs()) throw unexpected();
  return from_message(reply.jobs());
}

void JobClient::cancel(const std::string& job) {
  proto::Request request;
  request.mutable_cancel()->set_job(job);
  if (!ask(request, options_.reply_ms).has_done()) throw unexpected();
}

void JobClient::pause(const std::string& job) {
  proto::Request request;
  request.mutable_pause()->set_job(job);
  if (!ask(request, options_.reply_ms).has_done()) throw unexpected();
}

void JobClient::resume(const std::string& job) {
  proto::Request request;
  request.mutable_resume()->set_job(job);
  if (!ask(request, options_.reply_ms).has_done()) throw unexpected();
}

void JobClient::watch(const std::optional<std::string>& job,
                      const std::function<bool(const std::vector<JobStatus>&)>& on_now,
                      const std::function<bool(const JobNews&)>& on_event) {
  proto::Request request;
  request.mutable_watch();
  if (job) request.mutable_watch()->set_job(*job);
  const uint64_t id = send(request);
  const proto::Reply now = receive(id, options_.reply_ms);
  if (!now.has_jobs()) throw unexpected();
  if (!on_now(from_message(now.jobs()))) return;
  for (;;) {
    const proto::Reply reply = receive(id, kForEver);
    if (reply.has_done()) return;
    if (!reply.has_event()) throw unexpected();
    if (!on_event(coppice::from_message(reply.event()))) return;
  }
}

uint64_t JobClient::send(proto::Request& request) {
  request.set_id(++last_request_);
  request.set_token(options_.token);
  connection_->send(request.SerializeAsString());
  return last_request_;
}

proto::Reply JobClient::receive(uint64_t request, int timeout_ms) {
  proto::Reply reply;
  if (!reply.ParseFromString(connection_->receive(timeout_ms))) throw unexpected();
  if (reply.has_error()) throw coppice::from_message(reply.error(), connection_->server());
  if (reply.id() != request) throw unexpected();
  return reply;
}

proto::Reply JobClient::ask(proto::Request& request, int timeout_ms) {
  const uint64_t id = send(request);
  return receive(id, timeout_ms);
}

Error JobClient::unexpected() const {
  return invalid("{}: the server's answer is none that this version of coppice knows", connection_->server());
}

}  // namespace coppice
