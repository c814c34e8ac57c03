// The matrix product of this folder in float32: c = alpha a b or c += alpha a b, for frozen projections, the
// thin products of adapters and the tiles of attention.
//
// Every element of c is one chain of fused multiply-adds over k ascending, whatever the block, the position
// or the neighbours it is computed with. So a product may be cut into blocks of c anywhere, rows may come in
// any number, and no bit changes: which no library promises. dnnl_sgemm, measured on the same shapes (Zen 4,
// one thread, GFLOP/s of 118), promises nothing of the kind and is no faster: x[512,768] A^T[768,16] 82 here
// 114, h[512,16] B^T[16,768] 99 and 99, dh^T[16,512] x[512,768] 115 and 117, q k^T of 64x64x64 77 and 91, p v
// 100 and 115.
//
// a is read where it stands, by any pair of strides (so transposed costs nothing). b is read where it stands
// when its columns are contiguous, else transposed into scratch first (transpose_into). Compiled once for
// each instruction set.

#if defined(COPPICE_KERNELS_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef COPPICE_KERNELS_CPU_GEMM_INL_H_
#undef COPPICE_KERNELS_CPU_GEMM_INL_H_
#else
#define COPPICE_KERNELS_CPU_GEMM_INL_H_
#endif

#include <hwy/cache_control.h>

#include <algorithm>

#include "kernels/cpu/ahead.h"
#include "kernels/cpu/avx512-inl.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {

constexpr int kTileRows = kLanes >= 16 ? 8 : 4;  // with three vectors: 24 of 32 registers, or 12 of 16
constexpr int kTileVectors = 3;
constexpr int64_t kRowsAhead = 8;  // of b, when it is called into the cache

// Element (i, k) at data[i * row + k * depth].
struct LeftOperand {
  const float* data;
  int64_t row, depth;
};

// c = alpha a b; c += alpha a b; or c goes on as its chains' beginning, so that a depth may be cut anywhere:
// c = alpha (c + a b), every chain as if it had never been cut (for alpha 1).
enum class Store { kOverwrite, kAccumulate, kGoOn };

// kRows x (kVectors vectors) of c; the last vector may be a part.
template <int kRows, int kVectors, typename Last>
HWY_INLINE void tile(int64_t depth, LeftOperand a, const float* HWY_RESTRICT b, int64_t b_stride,
                     float* HWY_RESTRICT c, int64_t c_stride, float alpha, Store mode, Last last,
                     Ahead::Strip ahead) {
  Vec sums[kRows][kVectors];
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) sums[i][v] = set(0);
  }
  if (mode == Store::kGoOn) {
    for (int i = 0; i < kRows; ++i) {
      for (int v = 0; v < kVectors - 1; ++v) sums[i][v] = load(c + i * c_stride + v * kLanes, Whole());
      sums[i][kVectors - 1] = load(c + i * c_stride + (kVectors - 1) * kLanes, last);
    }
  }
  // The rows of c lie far apart: what the end will touch is called for at the start. So is a row of b that
  // comes later.
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) hwy::Prefetch(c + i * c_stride + v * kLanes);
  }
  const float* a_column = a.data;
  for (int64_t k = 0; k < depth; ++k) {
    Vec b_row[kVectors];
    if constexpr (kVectors > 1) ahead.step();
    for (int v = 0; v < kVectors; ++v) hwy::Prefetch(b + kRowsAhead * b_stride + v * kLanes);
    for (int v = 0; v < kVectors - 1; ++v) b_row[v] = load(b + v * kLanes, Whole());
    b_row[kVectors - 1] = load(b + (kVectors - 1) * kLanes, last);
    for (int i = 0; i < kRows; ++i) {
      const Vec value = set(a_column[i * a.row]);
      for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::MulAdd(value, b_row[v], sums[i][v]);
    }
    a_column += a.depth;
    b += b_stride;
  }
  const Vec factor = set(alpha);
  for (int i = 0; i < kRows; ++i) {
    float* const row = c + i * c_stride;
    for (int v = 0; v < kVectors; ++v) {
      const Vec value = hn::Mul(factor, sums[i][v]);
      if (v < kVectors - 1) {
        float* const at = row + v * kLanes;
        store(mode == Store::kAccumulate ? hn::Add(load(at, Whole()), value) : value, at, Whole());
      } else {
        float* const at = row + v * kLanes;
        store(mode == Store::kAccumulate ? hn::Add(load(at, last), value) : value, at, last);
      }
    }
  }
}

template <int kRows, int kVectors, typename Last>
HWY_INLINE void rest_of_rows(int64_t rows, int64_t depth, LeftOperand a, const float* b, int64_t b_stride,
                             float* c, int64_t c_stride, float alpha, Store mode, Last last,
                             Ahead::Strip ahead) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      tile<kRows, kVectors>(depth, a, b, b_stride, c, c_stride, alpha, mode, last, ahead);
    } else {
      rest_of_rows<kRows - 1, kVectors>(rows, depth, a, b, b_stride, c, c_stride, alpha, mode, last, ahead);
    }
  }
}

template <int kVectors, typename Last>
HWY_NOINLINE void panel(int64_t rows, int64_t depth, LeftOperand a, const float* b, int64_t b_stride,
                        float* c, int64_t c_stride, float alpha, Store mode, Last last, const Ahead& ahead) {
  int64_t i = 0;
  for (; i + kTileRows <= rows; i += kTileRows) {
    const LeftOperand part = {a.data + i * a.row, a.row, a.depth};
    tile<kTileRows, kVectors>(depth, part, b, b_stride, c + i * c_stride, c_stride, alpha, mode, last,
                              ahead.strip(i / kTileRows, depth, c));
  }
  const LeftOperand part = {a.data + i * a.row, a.row, a.depth};
  rest_of_rows<kTileRows - 1, kVectors>(rows - i, depth, part, b, b_stride, c + i * c_stride, c_stride, alpha,
                                        mode, last, ahead.strip(i / kTileRows, depth, c));
}

template <typename Last>
HWY_INLINE void panel_of(int64_t vectors, int64_t rows, int64_t depth, LeftOperand a, const float* b,
                         int64_t b_stride, float* c, int64_t c_stride, float alpha, Store mode, Last last,
                         const Ahead& ahead) {
  switch (vectors) {
    case 1:
      return panel<1>(rows, depth, a, b, b_stride, c, c_stride, alpha, mode, last, ahead);
    case 2:
      return panel<2>(rows, depth, a, b, b_stride, c, c_stride, alpha, mode, last, ahead);
    default:
      return panel<kTileVectors>(rows, depth, a, b, b_stride, c, c_stride, alpha, mode, last, ahead);
  }
}

// Of the next panel, where so many columns are left: 2 + 2 is better than 3 + 1.
HWY_INLINE int64_t vectors_of_panel(int64_t cols, int64_t most = kTileVectors) {
  const int64_t left = (cols + kLanes - 1) / kLanes;
  return left == 4 ? 2 : std::min(left, most);
}

// c [rows, cols] (+)= alpha a b, with b [depth, cols] of contiguous rows b_stride apart. What is read of b
// ends at its last column. ahead: what is to be called for meanwhile.
HWY_INLINE void multiply(int64_t rows, int64_t cols, int64_t depth, LeftOperand a, const float* b,
                         int64_t b_stride, float* c, int64_t c_stride, float alpha, Store mode,
                         const Ahead& ahead = {}) {
  for (int64_t begin = 0; begin < cols;) {
    const int64_t vectors = vectors_of_panel(cols - begin);
    const int64_t part = cols - begin - (vectors - 1) * kLanes;
    if (part >= kLanes) {
      panel_of(vectors, rows, depth, a, b + begin, b_stride, c + begin, c_stride, alpha, mode, Whole(),
               ahead);
    } else {
      panel_of(vectors, rows, depth, a, b + begin, b_stride, c + begin, c_stride, alpha, mode, Part{part},
               ahead);
    }
    begin += vectors * kLanes;
  }
}

// Writes the transpose of from [rows, cols], element (r, c) at from[r * stride + c], to `to` [cols,
// to_stride], with to_stride >= rows; columns from rows to to_stride are left as they are.
#if HWY_TARGET == HWY_AVX3
HWY_INLINE void transpose_into(const float* HWY_RESTRICT from, int64_t rows, int64_t cols, int64_t stride,
                               float* HWY_RESTRICT to, int64_t to_stride) {
  constexpr int64_t kSide = 16;
  for (int64_t r = 0; r < rows; r += kSide) {
    const __mmask16 rows_here = native::mask_of(rows - r);
    for (int64_t c = 0; c < cols; c += kSide) {
      const __mmask16 cols_here = native::mask_of(cols - c);
      const float* const at = from + r * stride + c;
      float* const out = to + c * to_stride + r;
      __m512i block[kSide];
      if (r + kSide <= rows && c + kSide <= cols) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < kSide; ++i) block[i] = _mm512_loadu_si512(at + i * stride);
        native::transpose(block);
#pragma GCC unroll 16
        for (int64_t i = 0; i < kSide; ++i) _mm512_storeu_si512(out + i * to_stride, block[i]);
        continue;
      }
      for (int64_t i = 0; i < kSide; ++i)
        block[i] =
            r + i < rows ? _mm512_maskz_loadu_epi32(cols_here, at + i * stride) : _mm512_setzero_si512();
      native::transpose(block);
      for (int64_t i = 0; i < kSide && c + i < cols; ++i)
        _mm512_mask_storeu_epi32(out + i * to_stride, rows_here, block[i]);
    }
  }
}
#else
HWY_INLINE void transpose_into(const float* HWY_RESTRICT from, int64_t rows, int64_t cols, int64_t stride,
                               float* HWY_RESTRICT to, int64_t to_stride) {
  const hn::FixedTag<float, 4> four;
  constexpr int64_t kLine =
      16;  // columns that share a cache line, done together: many rows may share its place
  const int64_t whole_rows = rows / 4 * 4, whole_cols = cols / 4 * 4;
  for (int64_t line = 0; line < whole_cols; line += kLine) {
    for (int64_t r = 0; r < whole_rows; r += 4) {
      for (int64_t c = line; c < std::min(line + kLine, whole_cols); c += 4) {
        const float* const at = from + r * stride + c;
        const auto r0 = hn::LoadU(four, at), r1 = hn::LoadU(four, at + stride),
                   r2 = hn::LoadU(four, at + 2 * stride), r3 = hn::LoadU(four, at + 3 * stride);
        const auto low01 = hn::InterleaveLower(four, r0, r1), low23 = hn::InterleaveLower(four, r2, r3);
        const auto high01 = hn::InterleaveUpper(four, r0, r1), high23 = hn::InterleaveUpper(four, r2, r3);
        float* const out = to + c * to_stride + r;
        hn::StoreU(hn::ConcatLowerLower(four, low23, low01), four, out);
        hn::StoreU(hn::ConcatUpperUpper(four, low23, low01), four, out + to_stride);
        hn::StoreU(hn::ConcatLowerLower(four, high23, high01), four, out + 2 * to_stride);
        hn::StoreU(hn::ConcatUpperUpper(four, high23, high01), four, out + 3 * to_stride);
      }
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c)
      to[c * to_stride + r] = from[r * stride + c];
  }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#endif
