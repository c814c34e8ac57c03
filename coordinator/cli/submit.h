#pragma once
// `coppice submit JOBS.yaml`: reads a job file as `run` does, gives its jobs to a server of `coppice serve`
// with absolute paths, and prints what was accepted: all of them or none. Thread: main. Errors: as
// read_job_file and JobClient.

#include <string>
#include <vector>

#include "coordinator/cli/control.h"

namespace coppice {

struct SubmitOptions {
  std::string jobs_file;
  std::vector<std::string> overrides;  // key=value
  bool watch = false;                  // until all of them have ended
};

// Exit status: 0; with watch 1 when one of the jobs failed or was cancelled.
int submit_jobs(const ServerOptions& server, const SubmitOptions& options);

}  // namespace coppice
