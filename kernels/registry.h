#pragma once
// The devices that this build knows, by name. Thread: compute thread. Errors: kNotFound names the known ones.

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace coppice {

std::vector<std::string> backend_names();  // "ref", "cpu"
// pool outlives the backend. Runs the backend's start-up check (equal bits for any row in any company) and throws kFailed where
// it does not hold on this processor.
std::unique_ptr<Backend> make_backend(const std::string& name, ThreadPool& pool);

}  // namespace coppice
