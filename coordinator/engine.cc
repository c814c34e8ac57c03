// The event loop: messages in, packs out, commits beside. The life of a job is in engine_jobs.cc.

#include "coordinator/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "common/base/check.h"
#include "common/base/error.h"

namespace coppice {
namespace {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Engine::Engine(Transport& transport, Backend& backend, const Backbone& backbone, KvStore& store,
               EngineOptions options)
    : transport_(transport),
      shard_(backend),
      backbone_(backbone),
      options_(std::move(options)),
      store_(store),
      credits_(options_.stages.size() == 1 ? 1 : options_.stages.size() + 1),
      metrics_(options_.output + "/metrics.jsonl"),
      started_seconds_(steady_seconds()) {
  CHECK(size_t(transport_.size()) == options_.stages.size() + 1);
  for (const MetricRecord& record : options_.metrics) {
    metrics_.write(record.line);
    next_metric_ = record.sequence + 1;
  }
  options_.metrics.clear();
  metrics_.flush();
}

double Engine::seconds() const {
  return steady_seconds() - started_seconds_ + options_.seconds_before;
}

bool Engine::poll() {
  bool worked = false;
  while (auto message = transport_.receive()) {
    take(*message);
    worked = true;
  }
  take_durable();
  worked |= fill_packs();
  worked |= commit_some();
  metrics_.flush();
  return worked;
}

bool Engine::ended() const {
  for (const auto& [name, run] : jobs_) {
    if (run->ended()) continue;
    const bool at_rest = stopping_ && run->phase == Phase::kWaiting && run->packs_in_flight == 0;
    if (!at_rest || run->unsaved || run->saving) return false;
  }
  return true;
}

void Engine::request_stop() {
  if (stopping_) return;
  stopping_ = true;
  for (auto& [name, run] : jobs_) {
    if (run->ended() || run->phase == Phase::kLeaving || run->phase == Phase::kFinishing) continue;
    queue_.clear(name);  // what is out runs out; the step is computed again to the same bits
    run->phase = Phase::kWaiting;
  }
}

void Engine::close() {
  for (int rank = 1; rank < transport_.size(); ++rank) {
    Message message;
    message.kind = proto::SHUT_DOWN;
    transport_.send(rank, std::move(message));
  }
  store_.drain();
  take_durable();
}

void Engine::take(const Message& message) {
  switch (proto::MessageKind(message.kind)) {
    case proto::INITIAL_TENSORS:
      return take_initial(message);
    case proto::PACK_LOSSES:
      return take_losses(message);
    case proto::GRADIENTS:
      return take_gradients(message);
    case proto::PACK_DONE:
      return take_done(message);
    case proto::ADAPTER_READY:
      return take_ready(message);
    case proto::RANK_FAILED:
      throw failed("stage of rank {}: {}", message.from, read_header<proto::RankFailed>(message).message());
    default:
      throw failed("message of kind {} from rank {} is not for the coordinator", message.kind, message.from);
  }
}

// A job that has failed or was stopped in the meantime is not found: what still arrives for it is dropped.
JobRun* Engine::find(const std::string& job, Phase phase) {
  const auto it = jobs_.find(job);
  return it != jobs_.end() && it->second->phase == phase ? it->second.get() : nullptr;
}

void Engine::take_initial(const Message& message) {
  const auto header = read_header<proto::AdapterTensors>(message);
  JobRun* run = find(header.job(), Phase::kInitializing);
  if (run == nullptr) return;
  for (NumberedTensor& tensor : get_tensors(header, message)) run->initial.push_back(std::move(tensor));
  if (--run->answers_missing > 0) return;
  ShardState state;
  const auto& specs = run->job->method->tensors();
  state.parameters.resize(specs.size());
  for (NumberedTensor& tensor : run->initial) {
    if (tensor.number < 0 || size_t(tensor.number) >= specs.size()) {
      throw failed("job {}: a stage made tensor {} of {}", run->name(), tensor.number, specs.size());
    }
    state.parameters[size_t(tensor.number)] = std::move(tensor.tensor);
  }
  run->initial.clear();
  add_to_shard(*run, std::move(state));
}

void Engine::take_losses(const Message& message) {
  const auto header = read_header<proto::PackLosses>(message);
  const auto pack = packs_.find(header.pack());
  if (pack == packs_.end() || size_t(header.weighted_losses_size()) != pack->second.items.size()) {
    throw failed("losses of pack {} do not fit what was sent", header.pack());
  }
  std::set<JobRun*> touched;
  for (size_t i = 0; i < pack->second.items.size(); ++i) {
    const PackItem& item = pack->second.items[i];
    JobRun* run = find(item.job, item.training ? Phase::kStepping : Phase::kEvaluating);
    if (run == nullptr) continue;
    run->losses[size_t(item.micro_batch)] = header.weighted_losses(int(i));
    --run->losses_missing;
    touched.insert(run);
  }
  for (JobRun* run : touched) {
    double sum = 0;
    for (double loss : run->losses) sum += loss;
    if (!std::isfinite(sum)) {
      fail(*run, fmt::format("the {} at step {} is {}: the job has diverged (a lower train.learning_rate, "
                             "under another job name, may help)",
                             run->phase == Phase::kEvaluating ? "evaluation loss" : "loss",
                             run->head.version + (run->phase == Phase::kStepping ? 1 : 0), sum));
    } else if (run->phase == Phase::kEvaluating) {
      end_evaluation(*run);
    } else {
      end_step(*run);
    }
  }
}

void Engine::take_gradients(const Message& message) {
  const auto header = read_header<proto::AdapterTensors>(message);
  JobRun* run = find(header.job(), Phase::kStepping);
  if (run == nullptr) return;
  for (NumberedTensor& gradient : get_tensors(header, message)) {
    shard_.push(run->name(), header.version(), gradient.number, std::move(gradient.tensor));
  }
  end_step(*run);
}

void Engine::take_done(const Message& message) {
  const auto header = read_header<proto::PackDone>(message);
  const auto pack = packs_.find(header.pack());
  if (pack == packs_.end()) throw failed("pack {} is done, but was not in flight", header.pack());
  if (--pack->second.stages_left > 0) return;
  const InFlightPack freed = std::move(pack->second);
  packs_.erase(pack);
  for (const PackItem& item : freed.items) {
    JobRun& run = *jobs_.at(item.job);
    if (--run.packs_in_flight == 0 && run.phase == Phase::kLeaving) leave(run);
  }
}

void Engine::take_ready(const Message& message) {
  const auto header = read_header<proto::AdapterReady>(message);
  JobRun* run = find(header.job(), Phase::kPublishing);
  if (run == nullptr || header.version() != run->head.version) return;
  if (--run->answers_missing == 0) advance(*run);
}

bool Engine::fill_packs() {
  bool sent = false;
  while (packs_.size() < credits_ && !queue_.empty()) {
    std::optional<bool> checkpointing;  // one kind a pack
    const auto names = queue_.take(options_.pack_rows, [&](const std::string& job) {
      const bool wanted = jobs_.at(job)->train().gradient_checkpointing;
      if (!checkpointing) checkpointing = wanted;
      return *checkpointing == wanted;
    });
    std::vector<PackItem> items;
    for (const std::string& name : names) {
      JobRun& run = *jobs_.at(name);
      const MethodConfig& method = *run.job->method;
      PackItem item;
      item.job = name;
      item.version = run.head.version;
      item.step = run.head.version;
      item.training = run.phase == Phase::kStepping;
      item.micro_batch = run.unpacked++;
      item.ends_step = item.training && size_t(run.unpacked) == run.plan->micro_batches.size();
      item.lowest_layer = item.training ? method.lowest_layer() : kNoBackward;
      item.virtual_rows = method.virtual_rows();
      item.prefix_rows = method.prefix_rows();
      item.target_weight = 1.0f / float(run.plan->targets);
      item.plan = run.plan;
      ++run.packs_in_flight;
      items.push_back(std::move(item));
    }
    PackedItems packed = make_pack(next_pack_++, checkpointing.value_or(false), std::move(items));
    const int last = transport_.size() - 1;
    for (int rank = 1; rank <= last; ++rank) {
      proto::PackPlan plan = to_proto(packed.plan);
      if (rank != 1) plan.clear_tokens();
      if (rank != last) {
        plan.clear_target_rows();
        plan.clear_targets();
        plan.clear_target_weights();
      }
      transport_.send(rank, make_message(proto::PACK_PLAN, plan));
    }
    packs_[packed.plan.pack.id] = {std::move(packed.items), last};
    sent = true;
  }
  return sent;
}

// The next takes the newest version of the job that was committed longest ago. Between two there is a pause
// of ten times what the last one took, so that commits cost the steps little; a job that waits for its own,
// or that the store does not know yet, is not kept waiting.
bool Engine::commit_some() {
  if (!store_.idle()) return false;
  const bool pausing = seconds() < next_commit_seconds_;
  JobRun* oldest = nullptr;
  for (auto& [name, run] : jobs_) {
    if (!run->unsaved || run->saving || run->phase == Phase::kInitializing) continue;
    const bool at_once = stopping_ || run->phase == Phase::kFinishing || run->saved_at == 0;
    if (!at_once && (pausing || run->train().save_steps > 0)) continue;
    if (oldest == nullptr || run->saved_at < oldest->saved_at) oldest = run.get();
  }
  if (oldest == nullptr) return false;
  commit(*oldest, shard_.has(oldest->name()));
  return true;
}

// What the jobs have reached, where the run ends in an error.
void Engine::save_all() {
  for (auto& [name, run] : jobs_) {
    if (run->unsaved && !run->ended()) commit(*run, shard_.has(name));
  }
  store_.drain();
}

void Engine::commit(JobRun& run, bool with_state) {
  Commit commit{run.record, run.head, std::nullopt, std::move(run.unsaved_metrics)};
  if (with_state) commit.state = shard_.state(run.name());
  run.unsaved_metrics.clear();
  run.unsaved = false;
  run.saving = true;
  run.saved_at = ++commits_;
  store_.submit(std::move(commit));
}

void Engine::take_durable() {
  for (const auto& [name, version, took] : store_.poll()) {
    JobRun& run = *jobs_.at(name);
    run.saving = false;
    run.saved_version = version;
    next_commit_seconds_ = seconds() + 10 * took;
    if (run.phase == Phase::kFinishing && !run.unsaved) finish(run);
    if (run.phase == Phase::kWaiting && !stopping_) advance(run);
  }
}

void Engine::add_metric(JobRun& run, std::string line) {
  metrics_.write(line);
  run.unsaved_metrics.push_back({next_metric_++, std::move(line)});
  run.unsaved = true;
}

void Engine::tell(JobEvent::Kind kind, const JobRun& run) {
  if (on_event_) on_event_({kind, &run});
}

std::vector<int> Engine::ranks_of(const MethodConfig& method) const {
  std::vector<int> ranks;
  for (size_t stage = 0; stage < options_.stages.size(); ++stage) {
    const auto there = [&](const TensorSpec& spec) {
      return options_.stages[stage].holds(spec.layer, backbone_.config.layers);
    };
    if (std::any_of(method.tensors().begin(), method.tensors().end(), there)) ranks.push_back(int(stage) + 1);
  }
  return ranks;
}

}  // namespace coppice
