#pragma once
// Reads a job file: YAML (or JSON) with backbone, defaults, jobs and sweep, every key checked by name. Paths
// in it are relative to the file's folder. A block of a job stands over that of the defaults, key by key;
// null takes an inherited key away. A job whose peft_type is another than the defaults', or that has an
// init_adapter, inherits none of their method keys; one that names eval or eval_split inherits neither.
// Thread: any. Errors: kNotFound, kInvalid, kUnsupported, naming file, job and field.

#include <string>
#include <vector>

#include "coordinator/jobs/job.h"

namespace coppice {

// overrides count as if they stood in the file: "defaults.train.max_steps=20",
// "jobs.tone.train.learning_rate=1e-4", "backbone=PATH": key paths with YAML values.
JobFile read_job_file(const std::string& path, const std::vector<std::string>& overrides = {});
JobFile parse_job_file(const Json& json, const std::string& what, const std::string& folder);

// The first key in which two descriptions of a job differ, other than a higher max_steps or num_train_epochs,
// the keys that change no bits (priority, logging_steps, save_steps, gradient_checkpointing, output paths)
// and where data.train and data.eval are; empty where none.
std::string changed_key(const Json& before, const Json& now);

}  // namespace coppice
