#pragma once
// Sweeps: a job becomes one job for each point of a grid, named after what differs:
// tone@train.learning_rate=1e-4,method.r=4. The job itself is not run. Thread: any. Errors: kInvalid naming
// the axis.

#include <vector>

#include "common/io/json.h"

namespace coppice {

// jobs: merged job objects of a file (before they are typed); sweep: {of: NAME, over: {PATH: [values]}} or a
// list of such.
std::vector<Json> expand_sweep(const std::vector<Json>& jobs, const Json& sweep, const std::string& where);

}  // namespace coppice
