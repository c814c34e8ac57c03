#include "coordinator/job_run.h"

namespace coppice {

std::string step_line(const JobRun& run, double gradient_norm, double learning_rate, double seconds) {
  return Json{{"job", run.name()},
              {"step", run.head.version},
              {"loss", run.head.loss},
              {"grad_norm", gradient_norm},
              {"learning_rate", learning_rate},
              {"tokens", run.head.tokens},
              {"time", seconds}}
      .dump();
}

std::string evaluation_line(const JobRun& run) {
  return Json{{"job", run.name()}, {"step", run.head.version}, {"eval_loss", run.head.eval_loss}}.dump();
}

}  // namespace coppice
