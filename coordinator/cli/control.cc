#include "coordinator/cli/control.h"

#include "coordinator/api/token.h"
#include "coordinator/cli/job_table.h"

namespace coppice {

JobClient connect(const ServerOptions& server) {
  JobClientOptions options;
  options.server = server.address;
  options.token = read_token(server.token_file);
  return JobClient(options);
}

int list_server_jobs(const ServerOptions& server) {
  std::vector<JobRow> rows;
  for (const JobStatus& job : connect(server).list()) {
    rows.push_back({job.name, std::string(job_state_name(job.state)), job.step, job.total_steps, job.loss,
                    job.eval_loss, job.trainable_parameters, job.tokens, job.reason});
  }
  print_job_table(rows);
  return 0;
}

int cancel_job(const ServerOptions& server, const std::string& job) {
  connect(server).cancel(job);
  return 0;
}

int pause_job(const ServerOptions& server, const std::string& job) {
  connect(server).pause(job);
  return 0;
}

int resume_job(const ServerOptions& server, const std::string& job) {
  connect(server).resume(job);
  return 0;
}

}  // namespace coppice
