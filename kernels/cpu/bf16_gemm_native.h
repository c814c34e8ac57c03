#pragma once
// bf16_gemm.h on the processor's own instructions, VCVTNE2PS2BF16 and VDPBF16PS, which also take and give
// denormal sums as zero. For callers who have asked has_bf16_products(): bf16_gemm.cc alone.
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
void multiply_pairs(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                    float* c, int64_t c_stride, float alpha, PairStore store, const Ahead& ahead);

}  // namespace coppice::native
