#pragma once
// The thin products beside a frozen one (LowRankItem of backend.h), done in its passes over memory: the first
// factor where rows of x are packed, the second where a block of y has its last sums and is still in the
// cache. Every element is the chain that grouped_matmul() would compute, whatever the pass it is done in.
//
// Thread: made by the compute thread; what is const may be called by any of the pool. Errors: kExhausted.

#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/bf16_gemm.h"

namespace coppice {

class LowRank {
 public:
  // Beside y = x W^T, or turned: dx = dy W, of a product whose columns are computed in panels of so many at
  // most, of which a thread has `slots` at a time. In float32 the inner rows are computed here.
  LowRank(Backend& backend, ThreadPool& pool, std::span<const LowRankItem> items, bool turned, DType compute,
          Matrix x, int64_t panel, int64_t slots);

  bool empty() const { return items_.empty(); }
  // bfloat16: the inner rows of rows [row, row + rows) of x, which stand as pairs at `x`.
  void compute_inner(int64_t row, int64_t rows, PairsOfRows x) const;
  // Columns [column, column + count) of the second factors of what has rows among [row, end), to a slot of
  // this worker.
  void prepare(int64_t row, int64_t end, int64_t column, int64_t count, int64_t slot, int worker) const;
  // Adds to rows [row, row + rows) of those columns, which stand at y.
  void add(int64_t row, int64_t rows, int64_t count, int64_t slot, int worker, float* y,
           int64_t stride) const;

 private:
  struct Item {
    const LowRankItem* low_rank;
    int64_t rank, words;   // of the inner dimension as it is multiplied: pairs in bfloat16
    int64_t first, inner;  // bfloat16: where its packed factor and its packed inner rows begin
    int64_t second;        // where its part of a slot begins
    int64_t row() const { return low_rank->row; }
    int64_t rows() const { return low_rank->inner.rows; }
  };
  const Matrix& first_factor(const Item& item) const {
    return turned_ ? item.low_rank->up : item.low_rank->down;
  }
  const Matrix& second_factor(const Item& item) const {
    return turned_ ? item.low_rank->down : item.low_rank->up;
  }
  float first_scale(const Item& item) const { return turned_ ? item.low_rank->scale : 1; }
  float second_scale(const Item& item) const { return turned_ ? 1 : item.low_rank->scale; }
  Pair* slot(const Item& item, int64_t slot, int worker) const;

  const bool turned_, bf16_;
  const int64_t slots_, pairs_;
  std::vector<Item> items_;
  int64_t slot_words_ = 0;
  Buffer firsts_, inners_, seconds_;
};

}  // namespace coppice
