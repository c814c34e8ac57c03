#pragma once
// `coppice run JOBS.yaml --output DIR`: the jobs of a file to their end, and on an existing DIR on from where
// each stood. Thread: main. Errors: kInvalid and the like before anything starts; what goes wrong later fails
// one job.

#include <string>
#include <vector>

#include "coordinator/cli/session.h"

namespace coppice {

struct RunOptions {
  std::string jobs_file;
  SessionOptions session;
  std::vector<std::string> overrides;  // key=value
  std::string progress = "auto";       // auto, table, lines, none
  bool dry_run = false;
  bool retry_failed = false;
  std::string command_line;  // printed as the command that resumes
};

// What a run tells beside its folder.
struct RunReport {
  int64_t model_memory_bytes = 0;  // of this host: the most that the memory model said of jobs together
};

// Exit status: 0 all done, 1 a job failed, 3 stopped by a signal (stop_on_signal.h).
int run_jobs(const RunOptions& options, RunReport* report = nullptr);

}  // namespace coppice
