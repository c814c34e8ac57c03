#pragma once
// The commands that ask a server of `coppice serve` one thing: `jobs`, `cancel`, `pause`, `resume`. Thread:
// main. Errors: as JobClient, all of which end with exit status 2.

#include <optional>
#include <string>

#include "coordinator/api/job_client.h"

namespace coppice {

// How a command finds its server and what it shows there.
struct ServerOptions {
  std::string address = "127.0.0.1:7420";  // HOST:PORT
  std::optional<std::string> token_file;   // absent: COPPICE_TOKEN
};

JobClient connect(const ServerOptions& server);

int list_server_jobs(const ServerOptions& server);
int cancel_job(const ServerOptions& server, const std::string& job);
int pause_job(const ServerOptions& server, const std::string& job);
int resume_job(const ServerOptions& server, const std::string& job);

}  // namespace coppice
