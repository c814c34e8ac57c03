#include "kernels/ref/ref_backend.h"

#include <fmt/format.h>

namespace coppice {

// The loops are compiled for the baseline, but exp, log and tanh of the C library choose their code by the
// processor.
std::string RefBackend::instruction_set() const {
  return __builtin_cpu_supports("fma") ? "x86_64_fma" : "x86_64";
}

std::optional<std::string> RefBackend::unsupported(DType compute) const {
  if (compute == DType::kF32 || compute == DType::kBF16) return std::nullopt;
  return fmt::format("backend 'ref' does not compute in {}; F32 and BF16 are accepted", dtype_name(compute));
}

std::unique_ptr<Backend> make_ref_backend(ThreadPool& pool) {
  return std::make_unique<RefBackend>(pool);
}

}  // namespace coppice
