#include "coordinator/rank.h"

#include <unistd.h>

#include <new>
#include <utility>

#include "common/base/error.h"
#include "coordinator/schedule/memory_model.h"
#include "worker/backbone/weights.h"

namespace coppice {
namespace {

constexpr int kCoordinator = 0;
constexpr size_t kSpansTogether = 256;

}  // namespace

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

Rank::Rank(Transport& transport, Device* device) : transport_(transport), device_(device) {}

bool Rank::poll() {
  if (stopped_) return false;
  const double began = steady_seconds();
  bool worked = false;
  try {
    while (auto message = transport_.receive()) {
      worked = true;
      if (message->kind == proto::SHUT_DOWN) {
        shut_down();
        return true;
      }
      if (!failed_) take(std::move(*message));
    }
    if (!failed_) worked |= work();
  } catch (const std::exception& error) {
    fail(error);
    worked = true;
  }
  note_wait(worked, began);
  return worked;
}

void Rank::take(Message message) {
  if (message.kind == proto::CONFIGURE) return configure(message);
  if (stage_worker_) return stage_worker_->take(std::move(message));
  if (!shard_worker_) throw invalid("message of kind {} came before this rank was configured", message.kind);
  shard_worker_->take(message);
}

bool Rank::work() {
  if (stage_worker_) return stage_worker_->work();
  return shard_worker_ && shard_worker_->poll();
}

void Rank::configure(const Message& message) {
  const auto request = read_header<proto::Configure>(message);
  if (stage_worker_ || shard_worker_) throw invalid("this rank was configured before");
  if (device_ == nullptr) {
    own_device_ = std::make_unique<Device>(
        ComputeOptions{request.device(), request.dtype(), request.threads(), nullptr});
    device_ = own_device_.get();
  }
  if (request.trace()) {
    const bool same_clock = request.host() == host_name();
    trace_.begin(request.trace_seconds() - (same_clock ? request.steady_seconds() : steady_seconds()));
  }
  proto::Configured answer;
  answer.set_available_bytes(available_memory_bytes());
  if (request.has_stage()) {
    become_stage(request.stage(), answer);
  } else if (request.has_shard()) {
    store_ = open_rocksdb(request.shard().store());
    shard_worker_ =
        std::make_unique<ShardWorker>(transport_, *device_->backend, kCoordinator, store_.get(), &trace_);
  } else {
    throw invalid("this rank is to be neither a stage nor a shard");
  }
  answer.set_instruction_set(device_->backend->instruction_set());
  answer.set_host(host_name());
  answer.set_usable_cores(usable_cores());
  answer.set_threads(device_->pool.threads());
  transport_.send(kCoordinator, make_message(proto::CONFIGURED, answer));
}

void Rank::become_stage(const proto::Configure::Stage& stage, proto::Configured& answer) {
  const std::string& folder = stage.backbone();
  config_ = read_backbone_config(folder);
  answer.set_backbone_fingerprint(BackboneWeights(folder, config_).fingerprint());
  StageOptions options{stage.first_layer(), stage.end_layer(), device_->compute};
  options.between_layers = [this] { transport_.progress(); };
  stage_ = std::make_unique<Stage>(*device_->backend, config_, folder, options);
  StageRanks ranks;
  ranks.in_turn = !own_device_;
  if (stage.has_previous()) ranks.previous = stage.previous();
  if (stage.has_next()) ranks.next = stage.next();
  stage_worker_ = std::make_unique<StageWorker>(transport_, *device_->backend, *stage_, ranks, trace_);
}

void Rank::shut_down() {
  stopped_ = true;
  try {
    if (shard_worker_ && !failed_) shard_worker_->drain();
  } catch (const std::exception& error) {
    fail(error);
  }
  send_trace();
  Message goodbye;
  goodbye.kind = proto::SHUT_DOWN;
  transport_.send(kCoordinator, std::move(goodbye));
}

void Rank::fail(const std::exception& error) {
  failed_ = true;
  proto::RankFailed failed;
  const auto* known = dynamic_cast<const Error*>(&error);
  const bool no_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  failed.set_message(no_memory ? "memory has run out" : error.what());
  failed.set_code(int(known ? known->code() : no_memory ? ErrorCode::kExhausted : ErrorCode::kFailed));
  transport_.send(kCoordinator, make_message(proto::RANK_FAILED, failed));
}

// A wait is from when there was nothing to do until there is something again.
void Rank::note_wait(bool worked, double since) {
  if (!trace_.on()) return;
  if (!worked && idle_since_ < 0) idle_since_ = since;
  if (worked && idle_since_ >= 0) {
    trace_.add("wait", std::exchange(idle_since_, -1), since);
  }
  if (trace_.size() >= kSpansTogether) send_trace();
}

void Rank::send_trace() {
  proto::TraceEvents events;
  for (TraceSpan& span : trace_.take()) {
    auto* event = events.add_events();
    event->set_name(std::move(span.name));
    event->set_begin(span.begin);
    event->set_seconds(span.seconds);
    event->set_pack(span.pack);
    event->set_job(std::move(span.job));
  }
  if (events.events_size() > 0) transport_.send(kCoordinator, make_message(proto::TRACE_EVENTS, events));
}

}  // namespace coppice
