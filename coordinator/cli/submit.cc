#include "coordinator/cli/submit.h"

#include <cstdio>
#include <set>

#include "coordinator/cli/watch.h"
#include "coordinator/jobs/job_file.h"

namespace coppice {

int submit_jobs(const ServerOptions& server, const SubmitOptions& options) {
  const Submission submission = make_submission(read_job_file(options.jobs_file, options.overrides));
  JobClient client = connect(server);
  const std::vector<AcceptedJob> accepted = client.submit(submission);
  std::set<std::string> names;
  std::printf("%-32s %8s %12s %10s\n", "job", "steps", "parameters", "MiB");
  for (const AcceptedJob& job : accepted) {
    std::printf("%-32s %8lld %12lld %10.1f\n", job.name.c_str(), static_cast<long long>(job.total_steps),
                static_cast<long long>(job.trainable_parameters), double(job.memory_bytes) / (1 << 20));
    names.insert(job.name);
  }
  std::fflush(stdout);
  return options.watch && !names.empty() ? watch_jobs(client, names) : 0;
}

}  // namespace coppice
