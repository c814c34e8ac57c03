#pragma once
// Products of bfloat16 with float32 sums, for all of bf16 mode. On the processor's tiles or its own
// instruction where there is one (bf16_gemm_amx.h, bf16_gemm_native.h), elsewhere by widening and multiplying
// in float32 (bf16_gemm.cc).
//
// Operands are packed first: two values that follow each other along the summed dimension make a Pair,
// rounded to nearest even; denormals become zero of their sign, NaN stays NaN. What is bfloat16 already stays
// as it is. An odd depth ends with a pair whose second half is zero. What is packed has the same bits on
// every processor. Every element of a product is one chain over its pairs ascending, whatever the tile, the
// position or the neighbours it is computed with: the promise of gemm-inl.h. Its bits, and what becomes of
// denormal sums, depend on which of the three computes it.
//
// Thread: any; pure functions. Nothing is thrown.

#include <cstdint>

#include "kernels/cpu/ahead.h"

namespace coppice {

using Pair = uint32_t;  // the earlier value in the low half

inline int64_t pairs_of(int64_t depth) {
  return (depth + 1) / 2;
}

// `from` is [rows, cols] with rows `stride` apart. Each to[...] is a pair (first, second):
// along: pairs of columns, to[r * to_stride + c] = (from(r, 2c), from(r, 2c + 1)).
void pack_pairs_along(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                      int64_t to_stride);
// across: pairs of rows, to[r * to_stride + c] = (from(2r, c), from(2r + 1, c)).
void pack_pairs_across(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                       int64_t to_stride);
// transposed: pairs of columns, down the columns: to[c * to_stride + r] = (from(r, 2c), from(r, 2c + 1)).
void pack_pairs_transposed(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                           int64_t to_stride);
// The same of values of bfloat16, as they are.
void pack_pairs_along(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                      int64_t to_stride);
void pack_pairs_across(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                       int64_t to_stride);
void pack_pairs_transposed(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                           int64_t to_stride);

// Pair k of row i at data[i * row + k * depth]; one of row and depth is 1.
struct PairsOfRows {
  const Pair* data;
  int64_t row, depth;
};

// How far ahead rows are called for that are packed across: products' wide rows come from memory, pieces of
// about 1 KB from rows that lie further apart, which no processor sees coming.
constexpr int64_t kRowsToCome = 16;

// What becomes of a product: c = alpha a b; c += alpha a b; or c goes on as its chains' beginning, so that a
// depth may be cut at multiples of kCutPairs: c = alpha (c + a b), every chain as if it had never been cut
// (for alpha 1).
constexpr int64_t kCutPairs = 16;
enum class PairStore { kOverwrite, kAccumulate, kGoOn };

// As many pairs as a product of so many takes best; those beyond are zero on both sides. Whole tiles where
// there are tiles, which would copy others.
int64_t whole_pairs(int64_t pairs);

// c [rows, cols], over `pairs` pairs; b[k * b_stride + column]. ahead: what is to be called for meanwhile,
// where products are fast enough to wait for it (native).
void multiply_pairs(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                    float* c, int64_t c_stride, float alpha, PairStore store, const Ahead& ahead = {});

}  // namespace coppice
