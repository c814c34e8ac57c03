#include "coordinator/cli/jobs.h"

#include <cstdio>

#include "common/base/error.h"
#include "coordinator/adapters/hugging_face.h"
#include "coordinator/cli/run_folder.h"

namespace coppice {

int list_jobs(const std::string& folder) {
  const auto run = open_run_folder(folder);
  const CheckpointReader& reader = run->checkpoints();
  std::printf("%-32s %-10s %13s %9s %9s %12s %12s\n", "job", "state", "step", "loss", "eval", "parameters",
              "tokens");
  const bool alive = is_running(folder);
  for (const JobRecord& record : reader.records()) {
    const JobHead head = reader.head(record.name).value_or(JobHead{});
    const bool stopped = record.state == JobState::kRunning && !alive;  // by a signal, or killed
    const std::string_view state = stopped ? "stopped" : job_state_name(record.state);
    const std::string step = fmt::format("{}/{}", head.version, record.total_steps);
    const std::string loss = head.version > 0 ? fmt::format("{:.4f}", head.loss) : "-";
    const std::string eval = head.evaluated >= 0 ? fmt::format("{:.4f}", head.eval_loss) : "-";
    std::printf("%-32s %-10s %13s %9s %9s %12lld %12lld%s%s\n", record.name.c_str(),
                std::string(state).c_str(), step.c_str(), loss.c_str(), eval.c_str(),
                static_cast<long long>(record.trainable_parameters), static_cast<long long>(head.tokens),
                record.reason.empty() ? "" : "  ", record.reason.c_str());
  }
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
