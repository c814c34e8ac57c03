#pragma once
// The device that a process computes on, from what its user asked for. Thread: main. Errors: kUnsupported
// where the processor cannot do the dtype asked for, kInvalid for an unknown one.

#include <functional>
#include <memory>
#include <string>

#include "common/base/thread_pool.h"
#include "kernels/registry.h"

namespace coppice {

// What every command that computes takes.
struct ComputeOptions {
  std::string device = "cpu";
  std::string dtype = "auto";  // auto (the device's natural one), float32, bfloat16
  int threads = 0;             // 0: the host's cores
  // What the device is put into, where it is to be watched (coppice bench --profile).
  std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)> wrap;
};

int usable_cores();  // that this process may use

// By the name --device gives it: of a backend with this instruction set.
std::string device_of(const std::string& instruction_set);

// A pool and a backend on it, with the dtype decided.
struct Device {
  explicit Device(const ComputeOptions& options);
  std::string dtype_name() const;  // "float32", "bfloat16"

  ThreadPool pool;
  std::unique_ptr<Backend> backend;
  DType compute = DType::kF32;
};

}  // namespace coppice
