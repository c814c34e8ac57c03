#include "kernels/cpu/cpu_backend.h"

#include <hwy/targets.h>

#include "common/base/error.h"
#include "kernels/cpu/bf16_linear.h"
#include "kernels/cpu/projections.h"

namespace coppice {

CpuBackend::CpuBackend(ThreadPool& pool)
    : HostBackend("cpu", pool), projections_(std::make_unique<Projections>(*this, pool)) {
  if (!projections_->bf16_unsupported() && !Projections::has_amx())
    bf16_projections_ = std::make_unique<Bf16Projections>(*this, pool);
}

CpuBackend::~CpuBackend() = default;

// oneDNN chooses by the processor on its own, Highway among the sets that this folder is compiled for.
std::string CpuBackend::instruction_set() const {
  const bool avx512 = (hwy::SupportedTargets() & HWY_AVX3) != 0;
  return fmt::format("{}, {}", Projections::instruction_set(), avx512 ? "avx512" : "avx2");
}

std::optional<std::string> CpuBackend::unsupported(DType compute) const {
  if (compute == DType::kF32) return {};
  if (compute == DType::kBF16) return projections_->bf16_unsupported();
  return fmt::format("{} is not a compute dtype; F32 and BF16 are accepted", dtype_name(compute));
}

std::unique_ptr<Backend> make_cpu_backend(ThreadPool& pool) {
  if ((hwy::SupportedTargets() & (HWY_AVX2 | HWY_AVX3)) == 0) {
    throw unsupported("backend 'cpu' needs a processor with AVX2 and FMA; 'ref' runs on any");
  }
  return std::make_unique<CpuBackend>(pool);
}

}  // namespace coppice
