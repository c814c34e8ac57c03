#include "worker/stage_worker.h"

#include "common/base/error.h"

namespace coppice {
namespace {

// Rows that stay in one process keep their device buffer.
class RowsPayload : public Payload {
 public:
  explicit RowsPayload(Rows rows) : rows_(std::move(rows)) {}
  const std::byte* data() const override { return rows_.matrix.data; }
  size_t bytes() const override { return size_t(rows_.matrix.size()) * sizeof(float); }
  Rows release() { return std::move(rows_); }

 private:
  Rows rows_;
};

}  // namespace

StageWorker::StageWorker(Transport& transport, Backend& backend, Stage& stage, const StageRanks& ranks)
    : transport_(transport), backend_(backend), stage_(stage), ranks_(ranks) {}

bool StageWorker::poll() {
  if (stopped_) return false;
  try {
    bool worked = false;
    while (auto message = transport_.receive()) {
      take(std::move(*message));
      worked = true;
      if (stopped_) return true;
    }
    if (backward_ready()) {
      run_backward();
      return true;
    }
    if (forward_ready()) {
      run_forward();
      return true;
    }
    return worked;
  } catch (const std::exception& error) {
    proto::RankFailed failed;
    failed.set_message(error.what());
    transport_.send(ranks_.coordinator, make_message(proto::RANK_FAILED, failed));
    stopped_ = true;
    return true;
  }
}

void StageWorker::take(Message message) {
  switch (proto::MessageKind(message.kind)) {
    case proto::PACK_PLAN: {
      PackPlan plan = from_proto(read_header<proto::PackPlan>(message));
      const uint64_t id = plan.pack.id;
      forwards_.push_back(id);
      if (backward_reaches(plan)) backwards_.push_back(id);
      packs_[id].plan = std::move(plan);
      return;
    }
    case proto::ROWS:
      return take_rows(message);
    case proto::INITIALIZE_ADAPTER:
      return initialize(message);
    case proto::PUBLISH:
      return publish(message);
    case proto::DROP_ADAPTER: {
      const std::string job = read_header<proto::DropAdapter>(message).job();
      stage_.drop_adapter(job);
      methods_.erase(job);
      return;
    }
    case proto::SHUT_DOWN:
      stopped_ = true;
      return;
    default:
      throw invalid("message of kind {} from rank {} is not for a stage", message.kind, message.from);
  }
}

// Rows may overtake their plan where they come from another rank than the coordinator: then the pack is made
// here.
void StageWorker::take_rows(Message& message) {
  const auto header = read_header<proto::RowsHeader>(message);
  if (message.payload.size() != 1 ||
      message.payload[0]->bytes() != size_t(header.rows() * header.cols()) * sizeof(float)) {
    throw invalid("rows of pack {} from rank {}: {} x {} are announced", header.pack(), message.from,
                  header.rows(), header.cols());
  }
  Rows rows;
  if (auto* local = dynamic_cast<RowsPayload*>(message.payload[0].get())) {
    rows = local->release();
  } else {
    rows.buffer = backend_.allocate(message.payload[0]->bytes());
    rows.matrix = rows.buffer.matrix(header.rows(), header.cols());
    backend_.upload(message.payload[0]->data(), rows.matrix);
  }
  InFlight& pack = packs_[header.pack()];
  (header.backward() ? pack.backward_rows : pack.forward_rows) = std::move(rows);
}

std::shared_ptr<const MethodConfig> StageWorker::method(const std::string& job, const std::string& json) {
  auto& known = methods_[job];
  if (!known) known = configure_method(parse_json(json, "method of job " + job), stage_.config(), "method");
  return known;
}

void StageWorker::initialize(const Message& message) {
  const auto request = read_header<proto::InitializeAdapter>(message);
  const auto config = method(request.job(), request.method());
  proto::AdapterTensors answer;
  answer.set_job(request.job());
  Message reply;
  put_tensors(stage_.initial_tensors(*config, request.seed()), answer, reply);
  reply.kind = proto::INITIAL_TENSORS;
  reply.header = answer.SerializeAsString();
  transport_.send(message.from, std::move(reply));
}

void StageWorker::publish(const Message& message) {
  const auto header = read_header<proto::AdapterTensors>(message);
  const auto config = method(header.job(), header.method());
  stage_.set_adapter(header.job(), config, header.seed(), header.version(), get_tensors(header, message),
                     header.training());
  proto::AdapterReady ready;
  ready.set_job(header.job());
  ready.set_version(header.version());
  transport_.send(ranks_.coordinator, make_message(proto::ADAPTER_READY, ready));
}

bool StageWorker::backward_reaches(const PackPlan& plan) const {
  return plan.pack.backward_rows(stage_.options().end_layer - 1) > 0;
}

bool StageWorker::backward_ready() const {
  return !backwards_.empty() && packs_.at(backwards_.front()).backward_rows.has_value();
}

bool StageWorker::forward_ready() const {
  if (forwards_.empty()) return false;
  return !ranks_.previous || packs_.at(forwards_.front()).forward_rows.has_value();
}

void StageWorker::run_forward() {
  const uint64_t id = forwards_.front();
  forwards_.pop_front();
  InFlight& pack = packs_.at(id);
  Rows rows;
  if (ranks_.previous) {
    Rows arrived = std::move(*pack.forward_rows);
    pack.forward_rows.reset();
    rows = stage_.forward(pack.plan.pack, std::move(arrived));
  } else {
    rows = stage_.forward(pack.plan.pack, pack.plan.tokens);
  }
  if (ranks_.next) {
    send_rows(*ranks_.next, id, false, std::move(rows));
  } else {
    run_loss(pack, rows);
  }
  if (!backward_reaches(pack.plan)) {
    // Only the head of the last stage can be trained without a backward through its blocks.
    if (!ranks_.next) push_gradients(pack.plan);
    finish(id);
  }
}

void StageWorker::run_loss(InFlight& pack, const Rows& rows) {
  Rows drows;
  const auto losses = stage_.loss(pack.plan.pack, pack.plan.targets, rows, false, &drows);
  proto::PackLosses report;
  report.set_pack(pack.plan.pack.id);
  for (const SegmentLoss& loss : losses) report.add_weighted_losses(loss.weighted_loss);
  transport_.send(ranks_.coordinator, make_message(proto::PACK_LOSSES, report));
  if (backward_reaches(pack.plan)) pack.backward_rows = std::move(drows);
}

void StageWorker::run_backward() {
  const uint64_t id = backwards_.front();
  backwards_.pop_front();
  InFlight& pack = packs_.at(id);
  Rows drows = std::move(*pack.backward_rows);
  pack.backward_rows.reset();
  Rows below = stage_.backward(pack.plan.pack, std::move(drows));
  if (ranks_.previous && pack.plan.pack.backward_rows(stage_.options().first_layer - 1) > 0) {
    send_rows(*ranks_.previous, id, true, std::move(below));
  }
  push_gradients(pack.plan);
  finish(id);
}

void StageWorker::push_gradients(const PackPlan& plan) {
  for (size_t i = 0; i < plan.pack.segments.size(); ++i) {
    if (!plan.ends_step[i]) continue;
    const Segment& segment = plan.pack.segments[i];
    const auto gradients = stage_.take_gradients(segment.job);
    if (gradients.empty()) continue;
    proto::AdapterTensors header;
    header.set_job(segment.job);
    header.set_version(segment.version);
    Message message;
    put_tensors(gradients, header, message);
    message.kind = proto::GRADIENTS;
    message.header = header.SerializeAsString();
    transport_.send(ranks_.coordinator, std::move(message));
  }
}

void StageWorker::finish(uint64_t id) {
  stage_.finish(packs_.at(id).plan.pack);
  packs_.erase(id);
  proto::PackDone done;
  done.set_pack(id);
  transport_.send(ranks_.coordinator, make_message(proto::PACK_DONE, done));
}

void StageWorker::send_rows(int to, uint64_t pack, bool backward, Rows rows) {
  proto::RowsHeader header;
  header.set_pack(pack);
  header.set_backward(backward);
  header.set_rows(rows.matrix.rows);
  header.set_cols(rows.matrix.cols);
  Message message = make_message(proto::ROWS, header);
  message.payload.push_back(std::make_unique<RowsPayload>(std::move(rows)));
  transport_.send(to, std::move(message));
}

}  // namespace coppice
