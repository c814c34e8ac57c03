#pragma once
// Frozen projections in bfloat16 through oneDNN, on a processor with AMX; all others are panel_linear.h's.
// A weight is cut into blocks of columns of the product and packed once, as oneDNN likes it; a product runs
// in tiles of a fixed number of rows, and a task of the pool is one call of one primitive on one (row tile,
// column block). Tile, block and primitive depend on (inputs, outputs) alone, the last tile is filled up with
// zero rows, and the library never threads by itself: so a row's bits know neither its neighbours nor the
// threads (design, section 4).
//
// The backward dx = dy W has blocks of its own, packed from the forward's on first use: forward-only programs
// never pay for them.
//
// Thread: compute thread. Errors: kExhausted; kFailed where oneDNN fails, with what it was asked.

#include <memory>

#include "kernels/backend.h"

namespace coppice {

class OnednnLinear {
 public:
  OnednnLinear(Backend& backend, ThreadPool& pool);  // both outlive it
  ~OnednnLinear();

  std::unique_ptr<FrozenWeight> prepare(const TensorView& weight);
  // Packed for both directions.
  static size_t weight_bytes(int64_t out, int64_t in) { return size_t(2 * out * in) * sizeof(uint16_t); }
  // y = x W^T + bias; bias may be empty.
  void forward(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y);
  // The same, in a small tile where there are few rows, whose bits are not those of forward().
  void decode(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y);
  // dx = dy W, or dx += dy W.
  void backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coppice
