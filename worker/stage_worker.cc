#include "worker/stage_worker.h"

#include <algorithm>

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

void check_rows(uint64_t pack, const Rows& rows, int64_t expected) {
  if (rows.matrix.rows != expected)
    throw invalid("pack {}: {} rows came from the stage beside, not {}", pack, rows.matrix.rows, expected);
}

}  // namespace

StageWorker::StageWorker(Transport& transport, Backend& backend, Stage& stage, const StageRanks& ranks,
                         Trace& trace)
    : transport_(transport), backend_(backend), stage_(stage), ranks_(ranks), trace_(trace) {}

bool StageWorker::work() {
  const bool forward = forward_ready() && (next_runs_dry() || !backward_ready());
  const bool backward = !forward && backward_ready();
  if (!forward && !backward) return false;
  forward ? run_forward() : run_backward();
  return true;
}

void StageWorker::take(Message message) {
  switch (proto::MessageKind(message.kind)) {
    case proto::PACK_PLAN:
      return take_plan(message);
    case proto::ROWS:
      return take_rows(message);
    case proto::INITIALIZE_ADAPTER:
      return initialize(message);
    case proto::PUBLISH:
      return publish(std::move(message));
    case proto::DROP_ADAPTER:
      return drop(message);
    default:
      throw invalid("message of kind {} from rank {} is not for a stage", message.kind, message.from);
  }
}

void StageWorker::take_plan(const Message& message) {
  PackPlan plan = from_proto(read_header<proto::PackPlan>(message));
  const uint64_t id = plan.pack.id;
  if (!ranks_.previous && int64_t(plan.tokens.size()) != plan.pack.rows) {
    throw invalid("pack {}: it has {} rows, and tokens for {}", id, plan.pack.rows, plan.tokens.size());
  }
  for (const int32_t token : plan.tokens) {
    if (token < 0 || token >= stage_.config().vocabulary) {
      throw invalid("pack {}: token {} is outside a vocabulary of {}", id, token, stage_.config().vocabulary);
    }
  }
  for (const int32_t token : plan.targets.targets) {
    if (token < 0 || token >= stage_.config().vocabulary) {
      throw invalid("pack {}: target {} is outside a vocabulary of {}", id, token,
                    stage_.config().vocabulary);
    }
  }
  forwards_.push_back(id);
  if (backward_reaches(plan)) backwards_.push_back(id);
  packs_[id].plan = std::move(plan);
}

// Rows may overtake their plan where they come from another rank than the coordinator: then the pack is made
// here.
void StageWorker::take_rows(Message& message) {
  const auto header = read_header<proto::RowsHeader>(message);
  const bool sensible =
      header.rows() >= 0 && header.rows() <= INT32_MAX && header.cols() == stage_.config().hidden;
  if (!sensible || message.payload.size() != 1 ||
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
  if (header.backward()) --at_next_;
}

StageWorker::Job& StageWorker::job(const std::string& name, const std::string& method) {
  Job& known = jobs_[name];
  if (!known.method) {
    known.method = configure_method(parse_json(method, "method of job " + name), stage_.config(), "method");
    for (const TensorSpec& spec : known.method->tensors()) known.tensors += stage_.lives_here(spec);
  }
  return known;
}

void StageWorker::initialize(const Message& message) {
  const auto request = read_header<proto::InitializeAdapter>(message);
  const Job& made = job(request.job(), request.method());
  proto::AdapterTensors answer;
  answer.set_job(request.job());
  Message reply;
  put_tensors(stage_.initial_tensors(*made.method, request.seed()), answer, reply);
  reply.kind = proto::INITIAL_TENSORS;
  reply.header = answer.SerializeAsString();
  transport_.send(message.from, std::move(reply));
}

void StageWorker::check_tensor(const Job& job, const std::string& name, const NumberedView& tensor) const {
  const auto& specs = job.method->tensors();
  const bool known = tensor.number >= 0 && size_t(tensor.number) < specs.size();
  if (!known || !stage_.lives_here(specs[size_t(tensor.number)])) {
    throw invalid("job {}: tensor {} does not live on this stage", name, tensor.number);
  }
  const TensorSpec& spec = specs[size_t(tensor.number)];
  if (tensor.tensor.shape != spec.shape) {
    throw invalid("job {}: tensor {} has the shape {}, not {}", name, spec.name,
                  shape_string(tensor.tensor.shape), shape_string(spec.shape));
  }
}

void StageWorker::publish(Message message) {
  const auto header = read_header<proto::AdapterTensors>(message);
  Job& known = job(header.job(), header.method());
  const auto forget = [&known] {
    known.arriving.clear();
    known.arrived.clear();
  };
  if (known.arriving_version != header.version()) forget();
  known.arriving_version = header.version();
  const Message& kept = known.arrived.emplace_back(std::move(message));
  for (NumberedView& tensor : view_tensors(header, kept)) {
    check_tensor(known, header.job(), tensor);
    known.owner[tensor.number] = kept.from;
    known.arriving.insert_or_assign(tensor.number, std::move(tensor));
  }
  if (known.arriving.size() < known.tensors) return;
  std::vector<NumberedView> tensors;
  for (auto& [number, tensor] : known.arriving) tensors.push_back(std::move(tensor));
  stage_.set_adapter(header.job(), known.method, header.seed(), header.version(), tensors, header.training());
  known.version = header.version();
  forget();
  proto::AdapterReady ready;
  ready.set_job(header.job());
  ready.set_version(header.version());
  transport_.send(ranks_.coordinator, make_message(proto::ADAPTER_READY, ready));
}

// What a job that has come back here meanwhile publishes may have overtaken the drop of before.
void StageWorker::drop(const Message& message) {
  const auto header = read_header<proto::DropAdapter>(message);
  const auto known = jobs_.find(header.job());
  if (known == jobs_.end()) return;
  if (std::max(known->second.version, known->second.arriving_version) > header.version()) return;
  stage_.drop_adapter(header.job());
  jobs_.erase(known);
}

bool StageWorker::backward_reaches(const PackPlan& plan) const {
  return plan.pack.backward_rows(stage_.options().end_layer - 1) > 0;
}

bool StageWorker::backward_ready() const {
  return !backwards_.empty() && packs_.at(backwards_.front()).backward_rows.has_value();
}

bool StageWorker::forward_ready() const {
  if (forwards_.empty()) return false;
  const InFlight& pack = packs_.at(forwards_.front());
  return (!ranks_.previous || pack.forward_rows.has_value()) && versions_in_place(pack.plan);
}

// It needs one pack to work on, and another when it has done that.
bool StageWorker::next_runs_dry() const {
  return ranks_.next && !ranks_.in_turn && at_next_ < 2;
}

bool StageWorker::versions_in_place(const PackPlan& plan) const {
  for (size_t i = 0; i < plan.pack.segments.size(); ++i) {
    if (!plan.adapter_here[i]) continue;
    const Segment& segment = plan.pack.segments[i];
    const auto known = jobs_.find(segment.job);
    const int64_t version = known == jobs_.end() ? -1 : known->second.version;
    if (version > segment.version) {
      throw invalid("pack {}: it is of version {} of job {}; version {} has taken its place", plan.pack.id,
                    segment.version, segment.job, version);
    }
    if (version < segment.version) return false;
  }
  return true;
}

// Its span ends before its rows leave: what the next stage does with them comes after it.
void StageWorker::run_forward() {
  const double begin = steady_seconds();
  const uint64_t id = forwards_.front();
  forwards_.pop_front();
  InFlight& pack = packs_.at(id);
  Rows rows;
  if (ranks_.previous) {
    Rows arrived = std::move(*pack.forward_rows);
    pack.forward_rows.reset();
    check_rows(id, arrived, pack.plan.pack.rows);
    rows = stage_.forward(pack.plan.pack, std::move(arrived));
  } else {
    rows = stage_.forward(pack.plan.pack, pack.plan.tokens);
  }
  if (!ranks_.next) run_loss(pack, rows);
  trace_.add("forward", begin, steady_seconds(), id);
  if (ranks_.next) {
    send_rows(*ranks_.next, id, false, std::move(rows));
    if (backward_reaches(pack.plan)) ++at_next_;
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
  const double begin = steady_seconds();
  const uint64_t id = backwards_.front();
  backwards_.pop_front();
  InFlight& pack = packs_.at(id);
  Rows drows = std::move(*pack.backward_rows);
  pack.backward_rows.reset();
  check_rows(id, drows, pack.plan.pack.backward_rows(stage_.options().end_layer - 1));
  Rows below = stage_.backward(pack.plan.pack, std::move(drows));
  if (ranks_.previous && pack.plan.pack.backward_rows(stage_.options().first_layer - 1) > 0) {
    send_rows(*ranks_.previous, id, true, std::move(below));
  }
  push_gradients(pack.plan);
  finish(id);
  trace_.add("backward", begin, steady_seconds(), id);
}

void StageWorker::push_gradients(const PackPlan& plan) {
  for (size_t i = 0; i < plan.pack.segments.size(); ++i) {
    if (!plan.ends_step[i]) continue;
    const Segment& segment = plan.pack.segments[i];
    std::map<int, std::vector<NumberedTensor>> by_owner;
    for (NumberedTensor& gradient : stage_.take_gradients(segment.job)) {
      by_owner[jobs_.at(segment.job).owner.at(gradient.number)].push_back(std::move(gradient));
    }
    for (auto& [owner, gradients] : by_owner) {
      proto::AdapterTensors header;
      header.set_job(segment.job);
      header.set_version(segment.version);
      Message message;
      put_tensors(std::move(gradients), header, message);
      message.kind = proto::GRADIENTS;
      message.header = header.SerializeAsString();
      transport_.send(owner, std::move(message));
    }
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
