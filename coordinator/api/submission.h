#pragma once
// Jobs as a client submits them: the keys that a job file gave, as text, until somebody has the time to read
// them. Nothing in it has been checked. Thread: any. Errors: kInvalid and the like, naming job and field as
// for a job file.

#include <string>
#include <vector>

#include "coordinator/jobs/job.h"

namespace coppice {

struct Submission {
  std::string backbone;           // absolute path
  std::vector<std::string> jobs;  // JSON of JobSpec::keys, paths absolute
};

Submission make_submission(const JobFile& file);
JobFile read_submission(const Submission& submission);  // checks all that read_job_file checks

}  // namespace coppice
