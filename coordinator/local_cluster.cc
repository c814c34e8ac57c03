#include "coordinator/local_cluster.h"

#include <sched.h>

#include <algorithm>

#include "common/base/error.h"

namespace coppice {

int default_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

Device::Device(const ComputeOptions& options)
    : pool(options.threads > 0 ? options.threads : default_threads()),
      backend(make_backend(options.device, pool)) {
  if (options.wrap) backend = options.wrap(std::move(backend));
  if (options.dtype == "bfloat16") {
    compute = DType::kBF16;
  } else if (options.dtype != "float32" && options.dtype != "auto") {
    throw invalid("--dtype is {}; auto, float32 and bfloat16 are accepted", options.dtype);
  }
  if (const auto reason = backend->unsupported(compute)) {
    throw unsupported("--dtype {} cannot be used here: {}", dtype_name(), *reason);
  }
}

std::string Device::dtype_name() const {
  return compute == DType::kBF16 ? "bfloat16" : "float32";
}

LocalCluster::LocalCluster(Device& device, const Backbone& backbone, const std::vector<LayerRange>& stages)
    : ends_(make_loopback(int(stages.size()) + 1)) {
  const int last = int(stages.size());
  for (int rank = 1; rank <= last; ++rank) {
    const LayerRange& range = stages[size_t(rank - 1)];
    StageOptions options{range.first, range.end, device.compute};
    stages_.push_back(std::make_unique<Stage>(*device.backend, backbone.config, backbone.path, options));
    StageRanks ranks;
    if (rank > 1) ranks.previous = rank - 1;
    if (rank < last) ranks.next = rank + 1;
    workers_.push_back(
        std::make_unique<StageWorker>(*ends_[size_t(rank)], *device.backend, *stages_.back(), ranks));
  }
}

bool LocalCluster::poll() {
  bool worked = false;
  for (auto& worker : workers_) worked |= worker->poll();
  return worked;
}

}  // namespace coppice
