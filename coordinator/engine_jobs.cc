// The life of a job in the engine: from submission to its export, and what a step is made of.

#include <cmath>
#include <filesystem>
#include <utility>

#include "common/base/check.h"
#include "common/base/error.h"
#include "coordinator/adapters/hugging_face.h"
#include "coordinator/engine.h"
#include "coordinator/params/lr_schedule.h"

namespace coppice {

void Engine::submit(std::unique_ptr<PreparedJob> job, std::optional<StoredJob> known) {
  auto owned = std::make_unique<JobRun>();
  JobRun& run = *owned;
  run.job = std::move(job);
  const PreparedJob& prepared = *run.job;
  run.record.ordinal = known ? known->record.ordinal : options_.first_ordinal++;
  run.record.name = prepared.spec.name;
  run.record.keys = prepared.spec.keys;
  run.record.method = prepared.method->hf_config();
  run.record.total_steps = prepared.batching->total_steps();
  run.record.trainable_parameters = prepared.method->trainable_parameters();
  run.record.backbone = backbone_.path;
  run.record.backbone_fingerprint = backbone_.fingerprint;
  run.record.data_fingerprint = prepared.data_fingerprint();
  run.record.dtype = options_.dtype;
  run.record.instruction_set = options_.instruction_set;
  const std::string name = run.name();
  CHECK(!jobs_.contains(name));
  jobs_.emplace(name, std::move(owned));
  if (known && known->head) run.head = *known->head;

  const bool exported =
      std::filesystem::exists(options_.output + "/adapters/" + name + "/adapter_config.json");
  const bool was_done = known && known->record.state == JobState::kDone && exported &&
                        run.head.version >= run.record.total_steps;
  const bool was_failed = known && known->record.state == JobState::kFailed;
  if (was_done || was_failed) {
    run.record = known->record;
    run.phase = Phase::kEnded;
    tell(JobEvent::Kind::kState, run);
    return;
  }
  queue_.add(name, prepared.spec.priority);
  run.record.state = JobState::kRunning;
  run.unsaved = true;
  tell(JobEvent::Kind::kState, run);
  if (known && known->head) {
    run.saved_version = run.head.version;
    add_to_shard(run, std::move(known->state));
  } else if (!prepared.initial.empty()) {
    ShardState state;
    state.parameters = prepared.initial;
    add_to_shard(run, std::move(state));
  } else {
    initialize(run);
  }
}

void Engine::initialize(JobRun& run) {
  proto::InitializeAdapter request;
  request.set_job(run.name());
  request.set_method(run.record.method.dump());
  request.set_seed(run.train().seed);
  const auto ranks = ranks_of(*run.job->method);
  run.phase = Phase::kInitializing;
  run.answers_missing = int(ranks.size());
  for (int rank : ranks) transport_.send(rank, make_message(proto::INITIALIZE_ADAPTER, request));
}

void Engine::add_to_shard(JobRun& run, ShardState state) {
  const auto& specs = run.job->method->tensors();
  state.tensors.clear();
  for (size_t i = 0; i < specs.size(); ++i) {
    state.tensors.push_back({int64_t(i), specs[i].name, specs[i].shape});
    if (i >= state.parameters.size() || state.parameters[i].shape != specs[i].shape) {
      return fail(run, fmt::format("tensor {} is missing or has not the shape {}", specs[i].name,
                                   shape_string(specs[i].shape)));
    }
  }
  shard_.add(run.name(), run.train(), std::move(state));
  publish(run);
}

void Engine::publish(JobRun& run) {
  const MethodConfig& method = *run.job->method;
  const auto ranks = ranks_of(method);
  run.phase = Phase::kPublishing;
  run.answers_missing = int(ranks.size());
  for (int rank : ranks) {
    const LayerRange& range = options_.stages[size_t(rank - 1)];
    std::vector<NumberedTensor> tensors;
    for (size_t i = 0; i < method.tensors().size(); ++i) {
      const bool there = range.holds(method.tensors()[i].layer, backbone_.config.layers);
      if (there) tensors.push_back({int64_t(i), shard_.parameter(run.name(), int64_t(i))});
    }
    proto::AdapterTensors header;
    header.set_job(run.name());
    header.set_version(run.head.version);
    header.set_method(run.record.method.dump());
    header.set_seed(run.train().seed);
    header.set_training(true);
    Message message;
    put_tensors(tensors, header, message);
    message.kind = proto::PUBLISH;
    message.header = header.SerializeAsString();
    transport_.send(rank, std::move(message));
  }
}

// At a version that all stages hold, with nothing under way.
void Engine::advance(JobRun& run) {
  const PreparedJob& job = *run.job;
  const int64_t version = run.head.version, total = run.record.total_steps;
  const int64_t rhythm = run.train().save_steps;
  if (stopping_) {
    run.phase = Phase::kWaiting;
    return;
  }
  // A rhythm of its own: this version goes to the store before the next is made.
  if (rhythm > 0 && version > 0 && version % rhythm == 0 && version > run.saved_version) {
    run.phase = Phase::kWaiting;
    if (!run.saving) commit(run, true);
    return;
  }
  if (run.head.evaluated < version && job.batching->evaluates_after(version)) {
    return begin(run, Phase::kEvaluating, job.batching->evaluation());
  }
  if (version >= total) {
    run.phase = Phase::kFinishing;
    if (!run.unsaved && !run.saving) finish(run);
    return;
  }
  begin(run, Phase::kStepping, job.batching->step(version));
}

void Engine::begin(JobRun& run, Phase phase, StepPlan plan) {
  run.phase = phase;
  run.plan = std::make_shared<const StepPlan>(std::move(plan));
  run.unpacked = 0;
  run.losses.assign(run.plan->micro_batches.size(), 0);
  run.losses_missing = int64_t(run.losses.size());
  CHECK(run.losses_missing > 0);
  for (const MicroBatch& batch : run.plan->micro_batches) queue_.push(run.name(), batch.rows);
}

void Engine::end_evaluation(JobRun& run) {
  if (run.losses_missing > 0) return;
  run.head.eval_loss = 0;
  for (double loss : run.losses) run.head.eval_loss += loss;
  run.head.evaluated = run.head.version;
  add_metric(run, evaluation_line(run));
  tell(JobEvent::Kind::kEvaluation, run);
  advance(run);
}

// All losses and all gradients are here: clip, update, raise the version.
void Engine::end_step(JobRun& run) {
  if (run.losses_missing > 0 || !shard_.complete(run.name())) return;
  double squared = 0;
  for (double part : shard_.squared_norms(run.name())) squared += part;
  const double norm = std::sqrt(squared);
  if (!std::isfinite(norm)) {
    return fail(run, fmt::format("the gradient's norm at step {} is {}: the job has diverged (a lower "
                                 "train.learning_rate may help)",
                                 run.head.version + 1, norm));
  }
  UpdateStep step;
  step.learning_rate = learning_rate(run.train(), run.head.version, run.record.total_steps);
  // As torch.nn.utils.clip_grad_norm_.
  const double limit = run.train().max_grad_norm;
  if (limit > 0) step.gradient_factor = std::min(1.0, limit / (norm + 1e-6));
  shard_.update(run.name(), step);
  run.head.version += 1;
  run.head.tokens += run.plan->tokens;
  run.head.loss = 0;
  for (double loss : run.losses) run.head.loss += loss;
  run.head.seconds = seconds();
  add_metric(run, step_line(run, norm, step.learning_rate, run.head.seconds));
  tell(JobEvent::Kind::kStep, run);
  publish(run);
}

// The last version is durable: export, then say so in the store.
void Engine::finish(JobRun& run) {
  if (run.record.state != JobState::kDone) {
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < run.job->method->tensors().size(); ++i) {
      tensors.push_back(shard_.parameter(run.name(), int64_t(i)));
    }
    try {
      export_adapter(options_.output + "/adapters/" + run.name(), *run.job->method, tensors, backbone_.path);
    } catch (const Error& error) {
      return fail(run, error.what());
    }
    run.record.state = JobState::kDone;
    commit(run, false);
    return;
  }
  leave(run);
}

void Engine::fail(JobRun& run, const std::string& reason) {
  run.record.state = JobState::kFailed;
  run.record.reason = reason;
  run.unsaved = true;
  queue_.clear(run.name());
  run.phase = Phase::kLeaving;
  if (run.packs_in_flight == 0) leave(run);
}

// Nothing of the job is under way any more.
void Engine::leave(JobRun& run) {
  proto::DropAdapter drop;
  drop.set_job(run.name());
  for (int rank : ranks_of(*run.job->method)) transport_.send(rank, make_message(proto::DROP_ADAPTER, drop));
  const bool has_state = shard_.has(run.name());
  if (run.unsaved) commit(run, has_state);
  if (has_state) shard_.remove(run.name());
  queue_.remove(run.name());
  run.phase = Phase::kEnded;
  tell(JobEvent::Kind::kState, run);
}

}  // namespace coppice
