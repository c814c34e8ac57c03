// The operators on frozen weights: those of panel_linear.h.

#include "common/base/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/panel_linear.h"

namespace coppice {

std::unique_ptr<FrozenWeight> CpuBackend::prepare_weight(const TensorView& weight, DType compute) {
  CHECK(!unsupported(compute));
  return panels_->prepare(weight, compute);
}

size_t CpuBackend::weight_bytes(int64_t out, int64_t in, DType compute) const {
  return PanelLinear::weight_bytes(out, in, compute);
}

bool CpuBackend::keeps_exact(DType stored, DType compute) const {
  return compute == DType::kF32 || stored == DType::kBF16;
}

void CpuBackend::linear(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
                        std::span<const LowRankItem> beside) {
  panels_->forward(weight, x, bias, y, beside);
}

void CpuBackend::linear_backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                                 std::span<const LowRankItem> beside) {
  panels_->backward(weight, dy, dx, accumulate, beside);
}

void CpuBackend::weight_rows(const FrozenWeight& weight, Matrix indices, Matrix rows) {
  panels_->rows(weight, indices, rows);
}

}  // namespace coppice
