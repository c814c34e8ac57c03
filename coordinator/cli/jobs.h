#pragma once
// `coppice jobs DIR` and `coppice export DIR JOB OUT`: what a run folder holds, also while a run writes it.
// Thread: main. Errors: kNotFound for folders and jobs, naming those that are there; kInvalid.

#include <string>

namespace coppice {

int list_jobs(const std::string& folder);
int export_job(const std::string& folder, const std::string& job, const std::string& out);

}  // namespace coppice
