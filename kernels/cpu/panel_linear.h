#pragma once
// Frozen projections by the products of this folder (gemm-inl.h, bf16_gemm.h). An element of such a product
// does not know its tile, so rows need no padding, a last tile costs what it holds, one row what its weights
// cost to read, and the cut into tasks may follow the threads.
//
// A weight is held once, in panels of so many of its outputs: [inputs, outputs of the panel], in bfloat16
// with two inputs that follow each other in one word. y = x W^T reads panels as they are. dx = dy W wants
// them turned: a task turns those of its columns into the scratch of its thread, part by part of the depth,
// once for all its rows; what that costs, and what a second copy of the weights would take, see
// tests/bench/RESULTS.md.
//
// Thread: compute thread. Errors: kExhausted.

#include <memory>
#include <span>

#include "kernels/backend.h"

namespace coppice {

class PanelLinear {
 public:
  PanelLinear(Backend& backend, ThreadPool& pool) : backend_(backend), pool_(pool) {}  // both outlive it

  std::unique_ptr<FrozenWeight> prepare(const TensorView& weight, DType compute);
  static size_t weight_bytes(int64_t out, int64_t in, DType compute);
  static bool made(const FrozenWeight& weight);  // by prepare()
  // As Backend::linear and linear_backward.
  void forward(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
               std::span<const LowRankItem> beside);
  void backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                std::span<const LowRankItem> beside);
  // As Backend::weight_rows.
  void rows(const FrozenWeight& weight, Matrix indices, Matrix rows);

 private:
  class Weight;
  struct Product;
  void multiply(const Product& product, Matrix x, Matrix bias, Matrix y, bool accumulate,
                std::span<const LowRankItem> beside);

  Backend& backend_;
  ThreadPool& pool_;
};

}  // namespace coppice
