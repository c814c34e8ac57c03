#pragma once
// All ranks of a run in one process: stages over the loopback transport, taking turns on the main thread; one
// pool computes. Thread: main. Errors: those of loading the backbone.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/transport/transport.h"
#include "coordinator/prepare.h"
#include "coordinator/schedule/planner.h"
#include "kernels/registry.h"
#include "worker/stage_worker.h"

namespace coppice {

// What every command that computes takes.
struct ComputeOptions {
  std::string device = "cpu";
  std::string dtype = "auto";  // auto, float32, bfloat16
  int threads = 0;             // 0: the host's cores
  // What the device is put into, where it is to be watched (coppice bench --profile).
  std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)> wrap;
};

int default_threads();  // cores that this process may use
// A pool and a backend on it, with the dtype decided. Throws kUnsupported where the processor cannot do the
// dtype asked for.
struct Device {
  explicit Device(const ComputeOptions& options);
  std::string dtype_name() const;  // "float32", "bfloat16"

  ThreadPool pool;
  std::unique_ptr<Backend> backend;
  DType compute = DType::kF32;
};

class LocalCluster {
 public:
  LocalCluster(Device& device, const Backbone& backbone, const std::vector<LayerRange>& stages);

  Transport& coordinator() { return *ends_[0]; }
  bool poll();  // every stage once; false where none had anything to do

 private:
  std::vector<std::unique_ptr<Transport>> ends_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<std::unique_ptr<StageWorker>> workers_;
};

}  // namespace coppice
