#pragma once
// bf16_gemm.h on the processor's own instructions, VCVTNE2PS2BF16 and VDPBF16PS, which also take and give
// denormal sums as zero. For callers who have asked has_bf16_products(): bf16_gemm.cc, and for what it alone
// has grouped_matmul.cc.
//
// Thread: any; pure functions. Nothing is thrown.

#include "kernels/cpu/bf16_gemm.h"

namespace coppice::native {

void pack_pairs_along(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                      int64_t to_stride);
void pack_pairs_across(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                       int64_t to_stride);
void pack_pairs_transposed(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                           int64_t to_stride);
void pack_pairs_transposed(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                           int64_t to_stride);
void multiply_pairs(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                    float* c, int64_t c_stride, float alpha, PairStore store, const Ahead& ahead);

// A factor's gradient: sums = thin' wide, [count, cols] dense, the chains of multiply_pairs() bit by bit.
// What is thin is packed across, to rows of thin_width(count) pairs, those beyond count zero; there are as
// many sums. What is wide is read from its rows as they stand, `stride` apart, once. go_on: the sums are the
// chains' beginning.
constexpr int64_t kMostThin = 16;
inline int64_t thin_width(int64_t count) {
  return (count + 3) / 4 * 4;
}
void multiply_thin(const Pair* thin, int64_t count, const float* wide, int64_t rows, int64_t cols,
                   int64_t stride, float* sums, bool go_on);
void multiply_thin(const Pair* thin, int64_t count, const uint16_t* wide, int64_t rows, int64_t cols,
                   int64_t stride, float* sums, bool go_on);

}  // namespace coppice::native
