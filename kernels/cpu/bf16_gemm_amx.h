#pragma once
// multiply_pairs() of bf16_gemm.h on a processor's tile registers (AMX), which also take and give denormal
// sums as zero. For callers who have asked has_amx(): bf16_gemm.cc alone. A thread that has called it keeps
// its registers configured: nothing else in the program uses them.
//
// Thread: any. Nothing is thrown.

#include "kernels/cpu/bf16_gemm.h"

namespace coppice::amx {

void multiply_pairs(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                    float* c, int64_t c_stride, float alpha, PairStore store, const Ahead& ahead);

}  // namespace coppice::amx
