#pragma once
// A backend with its pool, for one test.

#include "kernels/registry.h"

namespace coppice::contract {

struct Device {
  explicit Device(const std::string& name, int threads = 2)
      : pool(threads), backend(make_backend(name, pool)) {}
  Backend& operator*() { return *backend; }
  Backend* operator->() { return backend.get(); }

  ThreadPool pool;
  std::unique_ptr<Backend> backend;
};

}  // namespace coppice::contract
