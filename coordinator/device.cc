#include "coordinator/device.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include <fmt/ranges.h>

#include "common/base/error.h"

namespace coppice {

int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

std::string device_of(const std::string& instruction_set) {
  return instruction_set.starts_with("x86_64") ? "ref" : "cpu";  // ref has no level of its own
}

namespace {

const std::string& known(const std::string& device) {
  const auto names = backend_names();
  if (std::find(names.begin(), names.end(), device) != names.end()) return device;
  throw invalid("--device is {}; {} are accepted", device, fmt::join(names, ", "));
}

}  // namespace

Device::Device(const ComputeOptions& options)
    : pool(options.threads > 0 ? options.threads : usable_cores()),
      backend(make_backend(known(options.device), pool)) {
  if (options.wrap) backend = options.wrap(std::move(backend));
  if (options.dtype == "auto") {
    compute = backend->natural_dtype();
  } else if (options.dtype == "bfloat16") {
    compute = DType::kBF16;
  } else if (options.dtype != "float32") {
    throw invalid("--dtype is {}; auto, float32 and bfloat16 are accepted", options.dtype);
  }
  if (const auto reason = backend->unsupported(compute)) {
    throw unsupported("--dtype {} cannot be used here: {}", dtype_name(), *reason);
  }
}

std::string Device::dtype_name() const {
  return compute == DType::kBF16 ? "bfloat16" : "float32";
}

}  // namespace coppice
