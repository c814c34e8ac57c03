// The life of a job in the engine from its first version to its export, and what a step is made of.

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/check.h"
#include "common/base/error.h"
#include "coordinator/adapters/hugging_face.h"
#include "coordinator/engine.h"
#include "coordinator/params/lr_schedule.h"
#include "coordinator/params/placement.h"

namespace coppice {

// Paused jobs are no load; one that is to move is load where it will be.
int Engine::jobs_on(int pipeline) const {
  int count = 0;
  for (const JobRun* run : running_) {
    const int its = run->next_pipeline >= 0 ? run->next_pipeline : run->pipeline;
    count += its == pipeline && run->phase != Phase::kPaused;
  }
  return count;
}

int Engine::lightest_pipeline() const {
  int lightest = 0;
  for (int i = 1, least = jobs_on(0); i < int(pipelines_.size()); ++i) {
    const int jobs = jobs_on(i);
    if (jobs >= least) continue;
    lightest = i;
    least = jobs;
  }
  return lightest;
}

void Engine::initialize(JobRun& run) {
  proto::InitializeAdapter request;
  request.set_job(run.name());
  request.set_method(run.record.method.dump());
  request.set_seed(run.train().seed);
  run.phase = Phase::kInitializing;
  run.on_stages = true;
  run.answers_missing = run.stages_with_tensors();
  const auto& ranks = pipelines_[size_t(run.pipeline)].ranks;
  for (size_t stage = 0; stage < ranks.size(); ++stage) {
    if (run.on_stage[stage]) transport_.send(ranks[stage], make_message(proto::INITIALIZE_ADAPTER, request));
  }
}

std::vector<bool> Engine::stages_with_tensors(const MethodConfig& method) const {
  std::vector<bool> with;
  for (const LayerRange& stage : options_.stages) {
    with.push_back(std::any_of(method.tensors().begin(), method.tensors().end(), [&](const TensorSpec& spec) {
      return stage.holds(spec.layer, backbone_.config.layers);
    }));
  }
  return with;
}

void Engine::to_shard(int rank, Message message) {
  if (!own_shard_) return transport_.send(rank, std::move(message));
  message.from = transport_.rank();
  own_shard_->take(message);
}

std::vector<int> Engine::shards_of(const JobRun& run) const {
  std::vector<int> ranks = run.shard_of;
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

// state: parameters by number, and moments where there are such; each shard is given its part.
void Engine::add_to_shards(JobRun& run, ShardState state) {
  const auto& specs = run.job->method->tensors();
  std::vector<Shape> shapes;
  for (size_t i = 0; i < specs.size(); ++i) {
    shapes.push_back(specs[i].shape);
    const bool other =
        !state.tensors.empty() && (i >= state.tensors.size() || state.tensors[i].number != int64_t(i) ||
                                   state.tensors[i].name != specs[i].name);
    if (other || i >= state.parameters.size() || state.parameters[i].shape != specs[i].shape) {
      return fail(run, fmt::format("tensor {} is missing or has not the shape {}", specs[i].name,
                                   shape_string(specs[i].shape)));
    }
  }
  state.moments.resize(specs.size());
  run.shard_of.clear();
  for (int shard : place_tensors(shapes, int(shard_ranks_.size())))
    run.shard_of.push_back(shard_ranks_[size_t(shard)]);
  for (int rank : shards_of(run)) {
    proto::AddAdapter header;
    header.set_job(run.name());
    header.set_version(run.head.version);
    header.set_train(run.record.keys["train"].dump());
    header.set_method(run.record.method.dump());
    header.set_seed(run.train().seed);
    Message message;
    for (size_t i = 0; i < specs.size(); ++i) {
      if (run.shard_of[i] != rank) continue;
      auto* tensor = header.add_tensors();
      tensor->set_number(int64_t(i));
      tensor->set_name(specs[i].name);
      tensor->mutable_shape()->Add(specs[i].shape.begin(), specs[i].shape.end());
      tensor->set_moments(int(state.moments[i].size()));
      message.payload.push_back(std::make_unique<TensorPayload>(std::move(state.parameters[i])));
      for (Tensor& moment : state.moments[i])
        message.payload.push_back(std::make_unique<TensorPayload>(std::move(moment)));
    }
    message.kind = proto::ADD_ADAPTER;
    message.header = header.SerializeAsString();
    to_shard(rank, std::move(message));
  }
  run.on_shards = true;
  tell_running(run);
  route(run);
  advance(run);
}

// All that can keep a job from its first step has been read. Not of one that was paused meanwhile. No
// promise: a job that was queued and one that runs begin again alike.
void Engine::tell_running(JobRun& run) {
  if (run.record.state != JobState::kQueued) return;
  run.record.state = run.durable_state = JobState::kRunning;
  changed(run);
  run.told_changes = run.changes;
  tell(JobEvent::Kind::kState, run);
}

// The shards publish the version of now to the stages of the job's pipeline, and every version from now on.
void Engine::route(JobRun& run) {
  run.on_stages = true;
  run.answers_missing = run.stages_with_tensors();
  run.published_seconds = steady_seconds();
  const auto& specs = run.job->method->tensors();
  const auto& ranks = pipelines_[size_t(run.pipeline)].ranks;
  for (int shard : shards_of(run)) {
    proto::RouteAdapter routes;
    routes.set_job(run.name());
    for (size_t stage = 0; stage < ranks.size(); ++stage) {
      proto::RouteAdapter::Stage entry;
      entry.set_rank(ranks[stage]);
      for (size_t i = 0; i < specs.size(); ++i) {
        const bool here = options_.stages[stage].holds(specs[i].layer, backbone_.config.layers);
        if (here && run.shard_of[i] == shard) entry.add_tensors(int64_t(i));
      }
      if (entry.tensors_size() > 0) *routes.add_stages() = std::move(entry);
    }
    to_shard(shard, make_message(proto::ROUTE_ADAPTER, routes));
  }
}

// At a version that has been published, with no step or evaluation under way.
void Engine::advance(JobRun& run) {
  const PreparedJob& job = *run.job;
  const int64_t version = run.head.version, total = run.record.total_steps;
  const int64_t rhythm = run.train().save_steps;
  run.phase = Phase::kWaiting;
  run.next_pipeline = -1;
  if (stopping_) return;
  // A rhythm of its own: this version goes to the store before the next is made.
  if (rhythm > 0 && version > 0 && version % rhythm == 0 && version > run.saved_version) {
    if (!run.saving) commit(run);
    return;
  }
  if (run.pause_wanted) {
    run.phase = Phase::kPaused;
    run.pace.rest(seconds());
    return;
  }
  run.next_pipeline = idle_pipeline(run);
  if (run.next_pipeline >= 0) {
    if (!run.settled()) {
      run.phase = Phase::kMoving;
      return;
    }
    move(run);
  }
  if (run.head.evaluated < version && job.batching->evaluates_after(version)) {
    return begin(run, Phase::kEvaluating, job.batching->evaluation());
  }
  if (version >= total) {
    run.phase = Phase::kFinishing;
    run.pace.rest(seconds());
    if (!run.unsaved() && !run.saving) fetch(run);
    hurry(run);
    return;
  }
  begin(run, Phase::kStepping, job.batching->step(version));
}

// A pipeline that has no job takes one from where there are several; -1 where there is none such. Once a
// version: so a stage can tell the drop of a job that has left from the version with which it comes back,
// whichever of them arrives first.
int Engine::idle_pipeline(const JobRun& run) const {
  if (pipelines_.size() == 1 || run.moved_version == run.head.version) return -1;
  const int target = lightest_pipeline();
  return jobs_on(target) > 0 || jobs_on(run.pipeline) < 2 ? -1 : target;
}

void Engine::move(JobRun& run) {
  drop_from_stages(run);
  pipelines_[size_t(run.pipeline)].queue.remove(run.name());
  run.pipeline = std::exchange(run.next_pipeline, -1);
  run.moved_version = run.head.version;
  pipelines_[size_t(run.pipeline)].queue.add(run.name(), run.job->spec.priority);
  route(run);
}

void Engine::begin(JobRun& run, Phase phase, StepPlan plan) {
  run.phase = phase;
  run.pace.go(seconds(), run.head);
  run.plan = std::make_shared<const StepPlan>(std::move(plan));
  run.unpacked = 0;
  run.losses.assign(run.plan->micro_batches.size(), 0);
  run.losses_missing = int64_t(run.losses.size());
  run.squared_norms.assign(run.job->method->tensors().size(), 0);
  run.norms_missing = int64_t(run.squared_norms.size());
  CHECK(run.losses_missing > 0);
  for (const MicroBatch& batch : run.plan->micro_batches)
    pipelines_[size_t(run.pipeline)].queue.push(run.name(), batch.rows);
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

// All losses and all norms are here: clip and update.
void Engine::end_step(JobRun& run) {
  if (run.losses_missing > 0 || run.norms_missing > 0) return;
  double squared = 0;
  for (double part : run.squared_norms) squared += part;
  const double norm = std::sqrt(squared);
  if (!std::isfinite(norm)) {
    return fail(run, fmt::format("the gradient's norm at step {} is {}: the job has diverged (a lower "
                                 "train.learning_rate may help)",
                                 run.head.version + 1, norm));
  }
  update(run, norm);
}

void Engine::update(JobRun& run, double norm) {
  proto::UpdateAdapter step;
  step.set_job(run.name());
  step.set_version(run.head.version);
  step.set_learning_rate(learning_rate(run.train(), run.head.version, run.record.total_steps));
  // As torch.nn.utils.clip_grad_norm_.
  const double limit = run.train().max_grad_norm;
  step.set_gradient_factor(limit > 0 ? std::min(1.0, limit / (norm + 1e-6)) : 1.0);
  run.head.version += 1;
  run.answers_missing = run.stages_with_tensors();
  run.grad_norm = norm;
  run.learning_rate = step.learning_rate();
  run.head.tokens += run.plan->tokens;
  run.head.loss = 0;
  for (double loss : run.losses) run.head.loss += loss;
  run.head.seconds = seconds();
  add_metric(run, step_line(run));
  run.published_seconds = steady_seconds();
  for (int rank : shards_of(run)) to_shard(rank, make_message(proto::UPDATE_ADAPTER, step));
  if (own_shard_) note_span("update", run.published_seconds, run);
  tell(JobEvent::Kind::kStep, run);
  advance(run);
}

// The last version is durable: its tensors are brought here to be exported.
void Engine::fetch(JobRun& run) {
  run.phase = Phase::kExporting;
  run.fetched.assign(run.job->method->tensors().size(), {});
  run.fetched_missing = int64_t(run.fetched.size());
  proto::AdapterVersion version;
  version.set_job(run.name());
  version.set_version(run.head.version);
  for (int rank : shards_of(run)) to_shard(rank, make_message(proto::FETCH_PARAMETERS, version));
}

void Engine::take_parameters(const Message& message) {
  const auto header = read_header<proto::AdapterTensors>(message);
  JobRun* run = find(header.job(), Phase::kExporting);
  if (run == nullptr) return;
  for (NumberedTensor& tensor : get_tensors(header, message)) {
    if (tensor.number < 0 || size_t(tensor.number) >= run->fetched.size())
      throw failed("job {}: rank {} gave tensor {}", header.job(), message.from, tensor.number);
    run->fetched[size_t(tensor.number)] = std::move(tensor.tensor);
    --run->fetched_missing;
  }
  if (run->fetched_missing == 0) finish(*run);
}

// Beside the steps of others, since the disk takes its time.
void Engine::finish(JobRun& run) {
  const auto tensors = std::make_shared<const std::vector<Tensor>>(std::exchange(run.fetched, {}));
  const std::string folder = options_.output + "/adapters/" + run.name();
  store_.submit([folder, tensors, method = run.job->method,
                 path = backbone_.path] { export_adapter(folder, *method, *tensors, path); },
                [this, &run](const std::string& error) { exported(run, error); });
}

void Engine::exported(JobRun& run, const std::string& error) {
  if (!error.empty()) return fail(run, error);
  run.record.state = JobState::kDone;
  changed(run);
  run.phase = Phase::kLeaving;
  leave_if_done(run);
}

void Engine::fail(JobRun& run, const std::string& reason, JobState state) {
  run.record.state = state;
  run.record.reason = reason;
  changed(run);
  queued_.erase(&run);  // at once: it may have to wait for a commit until it can leave
  if (run.pipeline >= 0) pipelines_[size_t(run.pipeline)].queue.clear(run.name());
  run.phase = Phase::kLeaving;
  run.next_pipeline = -1;
  run.pace.rest(seconds());
  leave_if_done(run);
}

void Engine::drop_from_stages(const JobRun& run) {
  proto::DropAdapter drop;
  drop.set_job(run.name());
  drop.set_version(run.head.version);
  const auto& ranks = pipelines_[size_t(run.pipeline)].ranks;
  for (size_t stage = 0; stage < ranks.size(); ++stage) {
    if (run.on_stage[stage]) transport_.send(ranks[stage], make_message(proto::DROP_ADAPTER, drop));
  }
}

void Engine::leave_if_done(JobRun& run) {
  if (run.phase == Phase::kLeaving && run.settled() && !run.saving && !run.reading) leave(run);
}

// Nothing of the job is under way any more.
void Engine::leave(JobRun& run) {
  if (run.unsaved()) commit(run);
  if (run.on_stages) drop_from_stages(run);
  if (run.on_shards) {
    proto::DropAdapter drop;
    drop.set_job(run.name());
    drop.set_version(run.head.version);
    for (int rank : shards_of(run)) to_shard(rank, make_message(proto::DROP_ADAPTER, drop));
  }
  run.on_stages = run.on_shards = false;
  if (run.pipeline >= 0) {
    pipelines_[size_t(run.pipeline)].queue.remove(run.name());
  }
  run.pipeline = -1;
  run.phase = Phase::kEnded;
  running_.erase(&run);
  room_ = true;
  run.plan.reset();
  run.job.reset();
  run.known.reset();
  for (auto* values : {&run.losses, &run.squared_norms}) std::vector<double>().swap(*values);
  run.fetched.clear();
  run.memory = {};
}

}  // namespace coppice
