#include "coordinator/cli/run.h"

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "common/base/error.h"
#include "coordinator/cli/progress.h"
#include "coordinator/cli/run_folder.h"
#include "coordinator/engine.h"
#include "coordinator/jobs/job_file.h"
#include "coordinator/schedule/memory_model.h"

namespace coppice {
namespace {

volatile std::sig_atomic_t stop_signal = 0;  // the one thing that a signal handler may write

// SIGINT and SIGTERM ask for an orderly stop; a second one ends the process at once.
class StopOnSignal {
 public:
  StopOnSignal() {
    struct sigaction action {};
    action.sa_handler = [](int signal) { stop_signal = signal; };
    action.sa_flags = int(SA_RESETHAND);
    for (int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
  }
};

double mebibytes(int64_t bytes) {
  return double(bytes) / (1 << 20);
}

MemoryModel memory_model(const RunOptions& options, const Backbone& backbone,
                         const std::vector<LayerRange>& stages, DType compute, int64_t largest_rows) {
  MemoryModel model;
  model.config = backbone.config;
  for (const LayerRange& stage : stages) {
    model.weight_bytes += MemoryModel::estimate_weight_bytes(backbone.config, compute, stage);
  }
  model.stages = stages;
  model.pack_rows = std::max(options.pack_rows, largest_rows);
  model.packs = stages.size() == 1 ? 1 : int64_t(stages.size()) + 1;
  model.limit_bytes = available_memory_bytes();
  return model;
}

JobMemory memory_of(const PreparedJob& job) {
  return {job.method.get(), data_bytes(job.data), job.batching->max_micro_batch_rows(),
          job.spec.train.gradient_checkpointing};
}

void print_plan(const std::vector<std::unique_ptr<PreparedJob>>& jobs, const MemoryModel& model) {
  std::printf("%-32s %-14s %8s %12s %12s %10s\n", "job", "method", "steps", "tokens/epoch", "parameters",
              "MiB");
  int64_t adapters = 0;
  for (const auto& job : jobs) {
    const int64_t bytes = model.job_bytes(memory_of(*job));
    adapters += bytes;
    std::printf("%-32s %-14s %8lld %12lld %12lld %10.1f\n", job->spec.name.c_str(),
                std::string(job->method->method().peft_type()).c_str(),
                static_cast<long long>(job->batching->total_steps()),
                static_cast<long long>(job->data.train.tokens),
                static_cast<long long>(job->method->trainable_parameters()), mebibytes(bytes));
  }
  std::printf("weights %.1f MiB, packs of %lld rows %.1f MiB, adapters %.1f MiB, available %.0f MiB\n",
              mebibytes(model.weight_bytes), static_cast<long long>(model.pack_rows),
              mebibytes(model.packs_bytes()), mebibytes(adapters), mebibytes(model.limit_bytes));
}

// One invalid job refuses the file.
std::vector<std::unique_ptr<PreparedJob>> prepare_all(const JobFile& file, const Backbone& backbone) {
  std::vector<std::unique_ptr<PreparedJob>> jobs;
  for (const JobSpec& spec : file.jobs) jobs.push_back(prepare_job(spec, backbone));
  return jobs;
}

// What data.on_long did is never silent.
void tell_left_out(const PreparedJob& job) {
  for (const auto* data : {&job.data.train, &job.data.eval}) {
    if (data->truncated + data->dropped == 0) continue;
    std::fprintf(stderr, "%s: %s rows longer than %lld tokens: %lld truncated, %lld dropped\n",
                 job.spec.name.c_str(), data == &job.data.train ? "training" : "evaluation",
                 static_cast<long long>(job.spec.data.length_limit()),
                 static_cast<long long>(data->truncated), static_cast<long long>(data->dropped));
  }
}

void loop(Engine& engine, LocalCluster& cluster, Progress& progress) {
  bool stopping = false;
  while (!engine.ended()) {
    if (stop_signal != 0 && !stopping) {
      stopping = true;
      std::fprintf(stderr, "coppice: stopping at the last step of every job; a second signal ends at once\n");
      engine.request_stop();
    }
    bool worked = engine.poll();
    worked |= cluster.poll();
    progress.refresh(engine, false);
    if (!worked) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  engine.close();
  progress.refresh(engine, true);
}

int outcome(const Engine& engine, const RunOptions& options) {
  int failed_jobs = 0, open_jobs = 0;
  for (const auto& [name, run] : engine.jobs()) {
    if (!run->ended()) ++open_jobs;
    if (run->record.state != JobState::kFailed) continue;
    ++failed_jobs;
    std::fprintf(stderr, "coppice: job %s failed: %s\n", name.c_str(), run->record.reason.c_str());
  }
  if (open_jobs > 0) {
    std::fprintf(stderr, "coppice: stopped; every job is committed at its last step. To go on:\n  %s\n",
                 options.command_line.c_str());
    return 3;
  }
  return failed_jobs > 0 ? 1 : 0;
}

}  // namespace

int run_jobs(const RunOptions& options) {
  StopOnSignal signals;
  auto progress = Progress::make(options.progress);
  const JobFile file = read_job_file(options.jobs_file, options.overrides);
  Device device(options.compute);
  const Backbone backbone = [&] {
    try {
      return read_backbone(file.backbone);
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: backbone: {}", options.jobs_file, error.what()));
    }
  }();
  const auto stages = plan_stages(backbone.config, options.stages);
  auto jobs = prepare_all(file, backbone);
  int64_t largest_rows = 0;
  for (const auto& job : jobs) largest_rows = std::max(largest_rows, job->batching->max_micro_batch_rows());
  const MemoryModel model = memory_model(options, backbone, stages, device.compute, largest_rows);
  std::vector<JobMemory> admitted;
  for (const auto& job : jobs) {
    const FitAnswer answer = model.fit(job->spec.name, memory_of(*job), admitted);
    if (answer.fit != Fit::kNow) throw Error(ErrorCode::kExhausted, answer.message);
    admitted.push_back(memory_of(*job));
    tell_left_out(*job);
  }
  if (options.dry_run) {
    print_plan(jobs, model);
    return 0;
  }

  RunFolder folder(options.output);
  std::vector<std::optional<StoredJob>> known;
  for (const auto& job : jobs) {
    known.push_back(folder.known(*job, backbone, device.dtype_name(), device.backend->instruction_set(),
                                 options.retry_failed));
  }
  LocalCluster cluster(device, backbone, stages);
  EngineOptions engine_options;
  engine_options.output = options.output;
  engine_options.stages = stages;
  engine_options.pack_rows = options.pack_rows;
  engine_options.dtype = device.dtype_name();
  engine_options.instruction_set = device.backend->instruction_set();
  engine_options.seconds_before = folder.seconds();
  engine_options.metrics = folder.metrics();
  engine_options.first_ordinal = folder.next_ordinal();
  Engine engine(cluster.coordinator(), *device.backend, backbone, folder.store(), std::move(engine_options));
  engine.on_event([&](const JobEvent& event) { progress->event(event); });
  for (size_t i = 0; i < jobs.size(); ++i) engine.submit(std::move(jobs[i]), std::move(known[i]));
  try {
    loop(engine, cluster, *progress);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kFailed) engine.save_all();  // a stage is gone; the store is not
    throw;
  }
  return outcome(engine, options);
}

}  // namespace coppice
