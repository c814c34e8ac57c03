#include "coordinator/api/messages.h"

#include "common/net/frame.h"

namespace coppice {

static_assert(int(proto::Event::STATE) == int(JobNews::Kind::kState) &&
              int(proto::Event::STEP) == int(JobNews::Kind::kStep) &&
              int(proto::Event::EVALUATION) == int(JobNews::Kind::kEvaluation));

proto::RpcJobStatus to_message(const JobStatus& status) {
  proto::RpcJobStatus message;
  message.set_name(status.name);
  message.set_ordinal(status.ordinal);
  message.set_state(int(status.state));
  message.set_reason(status.reason);
  message.set_step(status.step);
  message.set_total_steps(status.total_steps);
  if (status.loss) message.set_loss(*status.loss);
  if (status.eval_loss) message.set_eval_loss(*status.eval_loss);
  message.set_trainable_parameters(status.trainable_parameters);
  message.set_tokens(status.tokens);
  message.set_tokens_per_second(status.tokens_per_second);
  if (status.seconds_left) message.set_seconds_left(*status.seconds_left);
  return message;
}

JobStatus from_message(const proto::RpcJobStatus& message) {
  if (message.state() < int(JobState::kQueued) || message.state() > int(JobState::kCancelled)) {
    throw invalid("the server says a job's state is {}; 0 to 5 are known", message.state());
  }
  JobStatus status;
  status.name = one_line(message.name());
  status.ordinal = message.ordinal();
  status.state = JobState(message.state());
  status.reason = one_line(message.reason());
  status.step = message.step();
  status.total_steps = message.total_steps();
  if (message.has_loss()) status.loss = message.loss();
  if (message.has_eval_loss()) status.eval_loss = message.eval_loss();
  status.trainable_parameters = message.trainable_parameters();
  status.tokens = message.tokens();
  status.tokens_per_second = message.tokens_per_second();
  if (message.has_seconds_left()) status.seconds_left = message.seconds_left();
  return status;
}

proto::Event to_message(const JobNews& news) {
  proto::Event message;
  message.set_kind(proto::Event::Kind(int(news.kind)));
  *message.mutable_job() = to_message(news.job);
  message.set_grad_norm(news.grad_norm);
  message.set_learning_rate(news.learning_rate);
  return message;
}

JobNews from_message(const proto::Event& message) {
  if (!proto::Event::Kind_IsValid(message.kind())) {
    throw invalid("the server tells of an event of kind {}; 0 to 2 are known", int(message.kind()));
  }
  JobNews news;
  news.kind = JobNews::Kind(int(message.kind()));
  news.job = from_message(message.job());
  news.grad_norm = message.grad_norm();
  news.learning_rate = message.learning_rate();
  return news;
}

proto::RpcError to_message(const Error& error) {
  proto::RpcError message;
  message.set_code(int(error.code()));
  message.set_message(error.what());
  return message;
}

// What broke on the server is, to its client, a request that was not granted: never a failed job.
Error from_message(const proto::RpcError& message, const std::string& server) {
  const bool known = message.code() >= int(ErrorCode::kInvalid) && message.code() < int(ErrorCode::kFailed);
  return Error(known ? ErrorCode(message.code()) : ErrorCode::kInvalid,
               fmt::format("{}: {}", server, one_line(message.message())));
}

}  // namespace coppice
