#include "kernels/cpu/cpu_backend.h"

#include "common/base/error.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/panel_linear.h"

namespace coppice {

CpuBackend::CpuBackend(ThreadPool& pool)
    : HostBackend("cpu", pool), panels_(std::make_unique<PanelLinear>(*this, pool)) {}

CpuBackend::~CpuBackend() = default;

std::string CpuBackend::instruction_set() const {
  return cpu_instruction_set();
}

std::optional<std::string> CpuBackend::unsupported(DType compute) const {
  if (compute == DType::kF32 || compute == DType::kBF16) return {};
  return fmt::format("{} is not a compute dtype; F32 and BF16 are accepted", dtype_name(compute));
}

// Where bfloat16 is widened first it saves memory, not time.
DType CpuBackend::natural_dtype() const {
  return has_bf16_products() ? DType::kBF16 : DType::kF32;
}

std::unique_ptr<Backend> make_cpu_backend(ThreadPool& pool) {
  if (!has_avx2()) {
    throw unsupported("backend 'cpu' needs a processor with AVX2 and FMA; 'ref' runs on any");
  }
  return std::make_unique<CpuBackend>(pool);
}

}  // namespace coppice
