#include "coordinator/cli/jobs.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "common/base/error.h"
#include "coordinator/adapters/hugging_face.h"
#include "coordinator/cli/job_table.h"
#include "coordinator/cli/run_folder.h"

namespace coppice {

int list_jobs(const std::string& folder) {
  const auto run = open_run_folder(folder);
  const CheckpointReader& reader = run->checkpoints();
  const bool alive = is_running(folder);
  std::vector<JobRow> rows;
  for (const JobRecord& record : reader.records()) {
    const JobHead head = reader.head(record.name).value_or(JobHead{});
    const bool stopped = record.state == JobState::kRunning && !alive;  // by a signal, or killed
    JobRow row;
    row.name = record.name;
    row.state = stopped ? "stopped" : job_state_name(record.state);
    row.step = head.version;
    row.total_steps = record.total_steps;
    if (head.version > 0) row.loss = head.loss;
    if (head.evaluated >= 0) row.eval_loss = head.eval_loss;
    row.trainable_parameters = record.trainable_parameters;
    row.tokens = head.tokens;
    row.reason = record.reason;
    rows.push_back(std::move(row));
  }
  print_job_table(rows);
  std::fflush(stdout);
  if (std::any_of(rows.begin(), rows.end(), [](const JobRow& row) { return row.state == "failed"; }))
    std::fprintf(stderr, "coppice: once the cause is gone%s, %s goes on with what failed\n",
                 alive ? " and the folder is free" : "", retry_command(folder).c_str());
  return 0;
}

int export_job(const std::string& folder, const std::string& job, const std::string& out) {
  const auto run = open_run_folder(folder);
  const CheckpointReader& reader = run->checkpoints();
  const auto record = reader.record(job);
  if (!record) {
    std::string known;
    for (const JobRecord& other : reader.records()) known += (known.empty() ? "" : ", ") + other.name;
    throw not_found("{}: has no job {}; it has {}", folder, job, known.empty() ? "none" : known);
  }
  const std::filesystem::path parent = std::filesystem::absolute(out).lexically_normal().parent_path();
  std::error_code none;
  if (std::filesystem::equivalent(parent, folder + "/adapters", none))
    throw invalid("{}: the adapters of {} are written by its runs; a folder elsewhere is accepted", out,
                  folder);
  if (!reader.head(job)) throw not_found("{}: job {} has no committed step yet", folder, job);
  const BackboneConfig backbone = read_backbone_config(record->backbone);
  const auto method = configure_method(record->method, backbone, "method");
  const ShardState state = reader.state(job);
  export_adapter(out, *method, state.parameters, record->backbone);
  std::printf("%s: step %lld of %lld\n", out.c_str(), static_cast<long long>(state.version),
              static_cast<long long>(record->total_steps));
  return 0;
}

}  // namespace coppice
