#include "coordinator/job_run.h"

#include <filesystem>

namespace coppice {

bool stays_ended(const StoredJob& known, int64_t total_steps, const std::string& output) {
  const JobRecord& record = known.record;
  if (record.state == JobState::kFailed || record.state == JobState::kCancelled) return true;
  return record.state == JobState::kDone && known.head && known.head->version >= total_steps &&
         std::filesystem::exists(output + "/adapters/" + record.name + "/adapter_config.json");
}

std::string step_line(const JobRun& run) {
  return Json{{"job", run.name()},          {"step", run.head.version},           {"loss", run.head.loss},
              {"grad_norm", run.grad_norm}, {"learning_rate", run.learning_rate}, {"tokens", run.head.tokens},
              {"time", run.head.seconds}}
      .dump();
}

std::string evaluation_line(const JobRun& run) {
  return Json{{"job", run.name()}, {"step", run.head.version}, {"eval_loss", run.head.eval_loss}}.dump();
}

}  // namespace coppice
