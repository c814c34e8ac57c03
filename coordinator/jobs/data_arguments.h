#pragma once
// The data block of a job, read from JSON and written back in canonical form. Paths are made absolute against
// the job file's folder. Thread: any. Errors: kInvalid, kUnsupported, naming the field.

#include <string>

#include "common/io/json.h"
#include "coordinator/jobs/job.h"

namespace coppice {

// complete: train must be there (it need not in a defaults block).
DataArguments read_data_arguments(const Json& json, const std::string& where, const std::string& folder,
                                  bool complete);

// Every key with its value: equal for two blocks that mean the same, and read back to the same arguments.
Json data_keys(const DataArguments& data);

// path as it stands in a file of folder: absolute and without dots. Empty text is kInvalid naming where.
std::string absolute_path(const std::string& path, const std::string& folder, const std::string& where);

}  // namespace coppice
