#pragma once
// Frozen projections in bfloat16 on processors without AMX, by bf16_gemm.h: measured on Zen 4 it gives 205
// GFLOP/s a thread where oneDNN gives 160 to 190, and where there is no AVX512_BF16 oneDNN only imitates it.
// Since an element of its products does not know its tile, rows need no padding: a last tile costs what it
// holds, and one row what its weights cost to read. With AMX projections are oneDNN's (projections.h).
//
// A weight is packed in panels of so many columns of the product, each [pairs of the depth, columns]; forward
// and backward have panels of their own, those of the backward made on first use.
//
// Thread: compute thread. Errors: kExhausted.

#include <memory>

#include "kernels/backend.h"

namespace coppice {

class Bf16Projections {
 public:
  Bf16Projections(Backend& backend, ThreadPool& pool) : backend_(backend), pool_(pool) {}  // both outlive it

  std::unique_ptr<FrozenWeight> prepare(const TensorView& weight);
  static bool made(const FrozenWeight& weight);  // by prepare()
  // y = x W^T + bias; bias may be empty.
  void forward(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y);
  // dx = dy W, or dx += dy W: then the sums begin with what stands in dx.
  void backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate);

 private:
  struct Panels;
  class Weight;
  Panels make_panels(int64_t depth, int64_t cols);
  Panels turn(const Panels& forward);
  void multiply(const Panels& panels, Matrix x, Matrix bias, Matrix y, bool accumulate);

  Backend& backend_;
  ThreadPool& pool_;
};

}  // namespace coppice
