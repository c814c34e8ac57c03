#include "coordinator/cli/run.h"

#include <algorithm>
#include <cstdio>

#include "common/base/error.h"
#include "coordinator/cli/job_table.h"
#include "coordinator/jobs/job_file.h"

namespace coppice {
namespace {

double mebibytes(int64_t bytes) {
  return double(bytes) / (1 << 20);
}

void print_plan(const std::vector<std::unique_ptr<PreparedJob>>& jobs, const MemoryModel& model) {
  std::vector<std::string> names;
  for (const auto& job : jobs) names.push_back(job->spec.name);
  const int width = name_width(names);
  std::printf("%-*s %-14s %8s %12s %12s %10s\n", width, "job", "method", "steps", "tokens/epoch",
              "parameters", "MiB");
  std::vector<JobMemory> all;
  for (const auto& job : jobs) {
    all.push_back(job->memory);
    const int64_t bytes = model.job_bytes(all.back());
    std::printf("%-*s %-14s %8lld %12lld %12lld %10.1f\n", width, job->spec.name.c_str(),
                std::string(job->method->method().peft_type()).c_str(),
                static_cast<long long>(job->total_steps), static_cast<long long>(job->data.train->tokens),
                static_cast<long long>(job->method->trainable_parameters()), mebibytes(bytes));
  }
  const MemoryParts parts = model.parts(all);
  std::printf(
      "weights %.1f MiB, packs of %lld rows %.1f MiB, adapters and data %.1f MiB, gradients and commits "
      "%.1f MiB, store %.1f MiB, program %.1f MiB, in all %.1f MiB",
      mebibytes(parts.weights), static_cast<long long>(model.largest_pack_rows(all)), mebibytes(parts.packs),
      mebibytes(parts.jobs), mebibytes(parts.gradients), mebibytes(parts.stores), mebibytes(parts.program),
      mebibytes(parts.total()));
  if (model.limit_bytes < INT64_MAX) std::printf("; %.0f MiB are there", mebibytes(model.limit_bytes));
  std::printf("\n");
}

using Jobs = std::vector<std::unique_ptr<PreparedJob>>;

// One invalid job refuses the file.
Jobs prepare_all(const JobFile& file, const Session& session) {
  Preparation preparation(session.backbone(), session.available_bytes());
  Jobs jobs;
  for (const JobSpec& spec : file.jobs) jobs.push_back(preparation.prepare(spec));
  return jobs;
}

// Of each job, whether a run in the folder has brought it to its end. Only looks: refuses what the run would
// be refused for when it goes on there.
std::vector<bool> look_at_folder(const Jobs& jobs, const RunOptions& options, Session& session) {
  const std::string& path = options.session.output;
  std::vector<bool> ended(jobs.size(), false);
  check_run_folder(path);
  if (!has_store(path)) return ended;
  if (options.dry_run && is_running(path)) {
    throw Error(ErrorCode::kBusy, fmt::format("--output {}: another process runs jobs there", path));
  }
  const auto folder = open_run_folder(path);
  for (size_t i = 0; i < jobs.size(); ++i) {
    const std::string& name = jobs[i]->spec.name;
    const auto record = folder->checkpoints().record(name);
    if (!record) continue;
    require_same_job(path, *record, *jobs[i], session.backbone(), session.device().dtype_name(),
                     session.device().backend->instruction_set());
    if (record->state == JobState::kFailed && options.retry_failed) continue;
    ended[i] = stays_ended({*record, folder->checkpoints().head(name), {}, {}}, jobs[i]->total_steps, path);
  }
  return ended;
}

// Of those that will run: fits or throws.
MemoryModel check_memory(const Jobs& jobs, const std::vector<bool>& ended, const Session& session) {
  const MemoryModel memory = session.memory_before_start();
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (ended[i]) continue;
    const FitAnswer answer = memory.fit(jobs[i]->spec.name, jobs[i]->memory, {});
    if (answer.fit == Fit::kNever) throw Error(ErrorCode::kExhausted, answer.message);
  }
  return memory;
}

// What data.on_long did is never silent.
void tell_left_out(const PreparedJob& job) {
  for (const bool training : {true, false}) {
    const Dataset& data = training ? *job.data.train : *job.data.eval;
    if (data.truncated + data.dropped == 0) continue;
    std::fprintf(stderr, "%s: %s rows longer than %lld tokens: %lld truncated, %lld dropped\n",
                 job.spec.name.c_str(), training ? "training" : "evaluation",
                 static_cast<long long>(job.spec.data.length_limit()), static_cast<long long>(data.truncated),
                 static_cast<long long>(data.dropped));
  }
}

// Whoever runs a file knows that its jobs are queued; that one must wait is news.
bool begins_at_once(const JobEvent& event) {
  const JobRecord& record = event.run->record;
  return event.kind == JobEvent::Kind::kState && record.state == JobState::kQueued && record.reason.empty();
}

int outcome(const Engine& engine, const RunOptions& options) {
  int failed_jobs = 0, open_jobs = 0;
  bool can_retry = false;
  for (const auto& [name, run] : engine.jobs()) {
    if (!run->ended()) ++open_jobs;
    if (run->record.state != JobState::kFailed && run->record.state != JobState::kCancelled) continue;
    ++failed_jobs;
    can_retry |= run->record.state == JobState::kFailed;
    std::fprintf(stderr, "coppice: job %s %s%s%s\n", name.c_str(),
                 std::string(job_state_name(run->record.state)).c_str(),
                 run->record.reason.empty() ? "" : ": ", run->record.reason.c_str());
  }
  if (can_retry) {
    std::fprintf(
        stderr, "coppice: where the cause of a failure is gone, this goes on from the last commit:\n  %s%s\n",
        options.command_line.c_str(), options.retry_failed ? "" : " --retry-failed");
  }
  if (open_jobs > 0) {
    std::fprintf(
        stderr,
        "coppice: stopped; every job is committed at the last step that it has done. To go on:\n  %s\n",
        options.command_line.c_str());
    return 3;
  }
  return failed_jobs > 0 ? 1 : 0;
}

}  // namespace

int run_jobs(const RunOptions& options, RunReport* report) {
  StopOnSignal signals;
  Launch launch;
  if (!launch.leads()) return launch.follow();
  auto progress = Progress::make(options.progress);
  const JobFile file = read_job_file(options.jobs_file, options.overrides);
  Backbone backbone = [&] {
    try {
      return read_backbone(file.backbone);
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: backbone: {}", options.jobs_file, error.what()));
    }
  }();
  Session session(options.session, launch, std::move(backbone), [&](const JobRecord& record) {
    return std::any_of(file.jobs.begin(), file.jobs.end(),
                       [&](const JobSpec& job) { return job.name == record.name; });
  });
  Jobs jobs = prepare_all(file, session);
  const std::vector<bool> ended = look_at_folder(jobs, options, session);
  const MemoryModel memory = check_memory(jobs, ended, session);
  for (size_t i = 0; i < jobs.size(); ++i) {
    tell_left_out(*jobs[i]);
    if (ended[i]) jobs[i]->unload();
  }
  if (options.dry_run) {
    print_plan(jobs, memory);
    return 0;
  }

  RunFolder& folder = session.open_folder();
  std::vector<std::optional<StoredJob>> known;
  for (const auto& job : jobs) {
    known.push_back(folder.known(*job, session.backbone(), session.device().dtype_name(),
                                 session.device().backend->instruction_set(), options.retry_failed));
    // Whoever runs the file wants its jobs to run.
    if (known.back() && known.back()->record.state == JobState::kPaused)
      known.back()->record.state = JobState::kRunning;
  }
  Engine& engine = session.start();
  engine.on_event([&](const JobEvent& event) {
    if (!begins_at_once(event)) progress->event(event);
  });
  for (size_t i = 0; i < jobs.size(); ++i)
    if (!ended[i]) engine.check_new(*jobs[i]);
  for (size_t i = 0; i < jobs.size(); ++i) engine.submit(std::move(jobs[i]), std::move(known[i]));
  session.work(*progress);
  if (report != nullptr) report->model_memory_bytes = engine.most_memory_bytes();
  return outcome(engine, options);
}

}  // namespace coppice
