// The event loop: messages in, packs out. The life of a job is in engine_jobs.cc, the store in
// engine_commits.cc.

#include "coordinator/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/check.h"
#include "common/base/error.h"
#include "common/io/keys.h"

namespace coppice {
namespace {

constexpr int64_t kLeastPackRows = 128;  // smaller packs leave row tiles empty

}  // namespace

Engine::Engine(Cluster& cluster, Backend& backend, const Backbone& backbone, KvStore& store,
               EngineOptions options)
    : cluster_(cluster),
      transport_(cluster.transport()),
      backbone_(backbone),
      options_(std::move(options)),
      shard_ranks_(cluster.shape().shard_ranks()),
      store_(store),
      metrics_(options_.output + "/metrics.jsonl"),
      started_seconds_(steady_seconds()) {
  CHECK(int(options_.stages.size()) == cluster.shape().stages);
  if (cluster.shape().shards == 0) own_shard_ = std::make_unique<ShardWorker>(transport_, backend, 0);
  for (int i = 0; i < cluster.shape().pipelines; ++i) {
    pipelines_.emplace_back();
    pipelines_.back().ranks = cluster.shape().stage_ranks(i);
  }
  for (const MetricRecord& record : options_.metrics) {
    metrics_.write(record.line);
    next_metric_ = record.sequence + 1;
  }
  options_.metrics.clear();
  metrics_.flush();
}

Engine::~Engine() {
  stopping_ = true;
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
  worked |= reads_.poll();
  take_durable();
  if (std::exchange(room_, false)) admit_waiting();
  worked |= fill_packs();
  worked |= commit_some();
  metrics_.flush();
  return worked;
}

bool Engine::ended() const {
  if (!unsaved_.empty() || saving_ > 0 || !store_.idle()) return false;
  if (!queued_.empty() && !stopping_) return false;
  return std::all_of(running_.begin(), running_.end(), [&](const JobRun* run) {
    const bool paused = run->phase == Phase::kPaused, stopped = stopping_ && run->phase == Phase::kWaiting;
    return (paused || stopped) && run->settled();
  });
}

void Engine::request_stop() {
  if (stopping_) return;
  stopping_ = true;
  for (JobRun* run : running_) {
    switch (run->phase) {
      case Phase::kStepping:
      case Phase::kEvaluating:
        // What is out runs out; the step is computed again to the same bits.
        pipelines_[size_t(run->pipeline)].queue.clear(run->name());
        run->phase = Phase::kWaiting;
        break;
      case Phase::kMoving:
      case Phase::kLoading:
      case Phase::kInitializing:
        run->phase = Phase::kWaiting;
        run->next_pipeline = -1;
        break;
      default:
        break;
    }
  }
}

void Engine::close() {
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
      if (own_shard_) return own_shard_->take(message);
      break;
    case proto::GRADIENT_NORMS:
      return take_norms(message);
    case proto::PACK_DONE:
      return take_done(message);
    case proto::ADAPTER_READY:
      return take_ready(message);
    case proto::PARAMETERS:
      return take_parameters(message);
    case proto::COMMITTED:
      return take_committed(message);
    case proto::TRACE_EVENTS:
      return take_spans(message);
    case proto::RANK_FAILED:
      throw_rank_failed(cluster_.shape(), message);
    default:
      break;
  }
  throw failed("message of kind {} from rank {} is not for the coordinator", message.kind, message.from);
}

// A job that has failed or was stopped in the meantime is not found: what still arrives for it is dropped.
JobRun* Engine::find(const std::string& job, Phase phase) {
  const auto it = jobs_.find(job);
  return it != jobs_.end() && it->second->phase == phase ? it->second.get() : nullptr;
}

const JobRun& Engine::job(const std::string& name) const {
  const auto it = jobs_.find(name);
  if (it != jobs_.end()) return *it->second;
  constexpr size_t kShown = 10;
  std::vector<std::string> names;
  for (const auto& [other, run] : jobs_) names.push_back(other);
  std::string known = nearest(name, names);
  if (known.empty()) {
    for (size_t i = 0; i < std::min(names.size(), kShown); ++i) known += (i > 0 ? ", " : "") + names[i];
    if (names.size() > kShown) known += fmt::format(" and {} more", names.size() - kShown);
    throw not_found("there is no job {}; there is {}", shown(std::string_view(name)),
                    known.empty() ? "none" : known);
  }
  throw not_found("there is no job {}; did you mean {}?", shown(std::string_view(name)), known);
}

JobRun& Engine::known(const std::string& name) {
  return const_cast<JobRun&>(job(name));
}

void Engine::take_initial(const Message& message) {
  const auto header = read_header<proto::AdapterTensors>(message);
  const auto it = jobs_.find(header.job());
  if (it == jobs_.end()) throw failed("rank {} made tensors of an unknown job", message.from);
  JobRun& run = *it->second;
  --run.answers_missing;
  if (run.phase == Phase::kLeaving) return leave_if_done(run);
  if (run.phase != Phase::kInitializing) return;
  const auto& specs = run.job->method->tensors();
  run.fetched.resize(specs.size());
  for (NumberedTensor& tensor : get_tensors(header, message)) {
    if (tensor.number < 0 || size_t(tensor.number) >= specs.size()) {
      throw failed("job {}: rank {} made tensor {} of {}", run.name(), message.from, tensor.number,
                   specs.size());
    }
    run.fetched[size_t(tensor.number)] = std::move(tensor.tensor);
  }
  if (run.answers_missing > 0) return;
  ShardState state;
  state.parameters = std::exchange(run.fetched, {});
  add_to_shards(run, std::move(state));
}

void Engine::take_losses(const Message& message) {
  const auto header = read_header<proto::PackLosses>(message);
  const auto pack = packs_.find(header.pack());
  if (pack == packs_.end() || size_t(header.weighted_losses_size()) != pack->second.items.size()) {
    throw failed("losses of pack {} do not fit what was sent", header.pack());
  }
  std::map<JobRun*, double> touched;  // with the sum of its new losses
  for (size_t i = 0; i < pack->second.items.size(); ++i) {
    const PackItem& item = pack->second.items[i];
    JobRun* run = find(item.job, item.training ? Phase::kStepping : Phase::kEvaluating);
    if (run == nullptr) continue;
    run->losses[size_t(item.micro_batch)] = header.weighted_losses(int(i));
    --run->losses_missing;
    touched[run] += header.weighted_losses(int(i));
  }
  for (const auto& [run, sum] : touched) {
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

void Engine::take_norms(const Message& message) {
  const auto header = read_header<proto::GradientNorms>(message);
  JobRun* run = find(header.job(), Phase::kStepping);
  if (run == nullptr || header.version() != run->head.version) return;
  if (header.tensors_size() != header.squared_norms_size())
    throw failed("job {}: norms from rank {} do not fit their tensors", header.job(), message.from);
  for (int i = 0; i < header.tensors_size(); ++i) {
    const int64_t number = header.tensors(i);
    if (number < 0 || size_t(number) >= run->squared_norms.size())
      throw failed("job {}: rank {} sent the norm of tensor {}", header.job(), message.from, number);
    run->squared_norms[size_t(number)] = header.squared_norms(i);
  }
  run->norms_missing -= header.tensors_size();
  end_step(*run);
}

void Engine::take_done(const Message& message) {
  const auto header = read_header<proto::PackDone>(message);
  const auto pack = packs_.find(header.pack());
  if (pack == packs_.end()) throw failed("pack {} is done, but was not in flight", header.pack());
  if (--pack->second.stages_left > 0) return;
  const InFlightPack freed = std::move(pack->second);
  packs_.erase(pack);
  Pipeline& pipeline = pipelines_[size_t(freed.pipeline)];
  --pipeline.packs;
  pipeline.rows -= freed.rows;
  for (const PackItem& item : freed.items) {
    JobRun& run = *jobs_.at(item.job);
    --run.packs_in_flight;
    come_back(run);
  }
}

void Engine::take_ready(const Message& message) {
  const auto header = read_header<proto::AdapterReady>(message);
  const auto it = jobs_.find(header.job());
  if (it == jobs_.end() || header.version() != it->second->head.version) return;
  JobRun& run = *it->second;
  if (--run.answers_missing > 0) return;
  note_span("publish", run.published_seconds, run);
  come_back(run);
}

// A pack or the last acknowledgement of a job has: perhaps it was waited for.
void Engine::come_back(JobRun& run) {
  if (run.phase == Phase::kMoving && run.settled()) return advance(run);
  leave_if_done(run);
}

void Engine::note_span(const char* name, double begin, const JobRun& run) {
  if (!on_span_) return;
  on_span_(0, {{name, begin - options_.trace_began, steady_seconds() - begin, 0, run.name()}});
}

void Engine::take_spans(const Message& message) {
  if (!on_span_) return;
  const auto header = read_header<proto::TraceEvents>(message);
  std::vector<TraceSpan> spans;
  for (const auto& event : header.events()) {
    spans.push_back({event.name(), event.begin(), event.seconds(), event.pack(), event.job()});
  }
  on_span_(message.from, spans);
}

bool Engine::fill_packs() {
  bool sent = false;
  for (size_t i = 0; i < pipelines_.size(); ++i) sent |= fill_packs(int(i));
  return sent;
}

// Where several packs are to be in flight, the work at hand is cut so that there are as many: a pack of all
// jobs would leave the stages waiting for each other.
int64_t Engine::pack_budget(const Pipeline& pipeline) const {
  if (options_.credits == 1) return options_.pack_rows;
  const int64_t rows = pipeline.rows + pipeline.queue.ready_rows();
  const int64_t share = (rows + options_.credits - 1) / options_.credits;
  return std::min(options_.pack_rows, std::max(kLeastPackRows, share));
}

bool Engine::fill_packs(int number) {
  Pipeline& pipeline = pipelines_[size_t(number)];
  bool sent = false;
  while (pipeline.packs < options_.credits && !pipeline.queue.empty()) {
    std::optional<bool> checkpointing;  // one kind a pack
    const auto names = pipeline.queue.take(pack_budget(pipeline), [&](const std::string& job) {
      const bool wanted = jobs_.at(job)->train().gradient_checkpointing;
      if (!checkpointing) checkpointing = wanted;
      return *checkpointing == wanted;
    });
    std::vector<PackItem> items;
    for (const std::string& name : names) items.push_back(next_item(*jobs_.at(name)));
    send_pack(number, make_pack(next_pack_++, checkpointing.value_or(false), std::move(items)));
    sent = true;
  }
  return sent;
}

PackItem Engine::next_item(JobRun& run) {
  const MethodConfig& method = *run.job->method;
  PackItem item;
  item.job = run.name();
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
  return item;
}

void Engine::send_pack(int number, PackedItems packed) {
  Pipeline& pipeline = pipelines_[size_t(number)];
  const proto::PackPlan plan = to_proto(packed.plan);
  for (size_t stage = 0; stage < pipeline.ranks.size(); ++stage) {
    proto::PackPlan own = plan;
    if (stage > 0) own.clear_tokens();
    if (stage + 1 < pipeline.ranks.size()) {
      own.clear_target_rows();
      own.clear_targets();
      own.clear_target_weights();
    }
    for (size_t i = 0; i < packed.items.size(); ++i)
      own.mutable_segments(int(i))->set_adapter_here(jobs_.at(packed.items[i].job)->on_stage[stage]);
    transport_.send(pipeline.ranks[stage], make_message(proto::PACK_PLAN, own));
  }
  const int64_t rows = packed.plan.pack.rows;
  ++pipeline.packs;
  pipeline.rows += rows;
  packs_[packed.plan.pack.id] = {std::move(packed.items), number, int(pipeline.ranks.size()), rows};
}

}  // namespace coppice
