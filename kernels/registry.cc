#include "kernels/registry.h"

#include "common/base/error.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/ref/ref_backend.h"
#include "kernels/startup_check.h"

namespace coppice {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<Backend> (*make)(ThreadPool&);
};

constexpr Entry kBackends[] = {{"ref", make_ref_backend}, {"cpu", make_cpu_backend}};

}  // namespace

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kBackends) names.emplace_back(entry.name);
  return names;
}

std::unique_ptr<Backend> make_backend(const std::string& name, ThreadPool& pool) {
  for (const Entry& entry : kBackends) {
    if (name != entry.name) continue;
    std::unique_ptr<Backend> backend = entry.make(pool);
    for (DType compute : {DType::kF32, DType::kBF16}) {
      if (!backend->unsupported(compute)) check_equal_bits(*backend, compute);
    }
    return backend;
  }
  throw not_found("backend '{}'; {} are accepted", name, fmt::join(backend_names(), ", "));
}

}  // namespace coppice
