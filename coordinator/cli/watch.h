#pragma once
// `coppice watch [JOB]`: what happens on a server, line by line on standard output, as it happens. Ctrl-C
// ends the watching, with the shell's usual status of a signal; jobs know nothing of it. Thread: main.
// Errors: as JobClient.

#include <optional>
#include <set>
#include <string>

#include "coordinator/cli/control.h"

namespace coppice {

// With a job until it has ended: exit status 0 when it is done, 1 when it failed or was cancelled. Without,
// until the server goes.
int watch_server(const ServerOptions& server, const std::optional<std::string>& job);

// The same for all of these jobs: 1 when one of them failed or was cancelled.
int watch_jobs(JobClient& client, const std::set<std::string>& jobs);

}  // namespace coppice
