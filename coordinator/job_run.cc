#include "coordinator/job_run.h"

namespace coppice {

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
