#include "kernels/cpu/bf16_gemm_native.h"

#include <algorithm>

#include "kernels/cpu/avx512-inl.h"

// For the instructions of this file alone; callers have asked the processor.
HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace coppice::native {
namespace {

constexpr int64_t kLanes = 16;
constexpr int kTileRows = 8;  // with three vectors: 24 of 32 registers

// 32 floats as bfloat16, in order.
__m512i rounded(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// 32 floats from memory, or `count` of them and zeros.
__m512i load_along(const float* from) {
  return rounded(_mm512_loadu_ps(from), _mm512_loadu_ps(from + kLanes));
}
__m512i load_along(const float* from, int64_t count) {
  return rounded(_mm512_maskz_loadu_ps(mask_of(count), from),
                 _mm512_maskz_loadu_ps(mask_of(count - kLanes), from + kLanes));
}
__m512i load_along(const uint16_t* from) {
  return _mm512_loadu_si512(from);
}
__m512i load_along(const uint16_t* from, int64_t count) {
  return _mm512_maskz_loadu_epi16(count >= 32 ? ~__mmask32(0) : (__mmask32(1) << count) - 1, from);
}

// kRows x (kVectors vectors) of c; last: of the last vector.
template <int kRows, int kVectors>
inline __attribute__((always_inline)) void tile(int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                                                float* c, int64_t c_stride, float alpha, PairStore store,
                                                __mmask16 last, Ahead::Strip ahead) {
  __m512 sums[kRows * kVectors];
#pragma GCC unroll 24
  for (int i = 0; i < kRows * kVectors; ++i) sums[i] = _mm512_setzero_ps();
#pragma GCC unroll 24
  for (int i = 0; i < kRows * kVectors; ++i)
    _mm_prefetch(reinterpret_cast<const char*>(c + i / kVectors * c_stride + i % kVectors * kLanes),
                 _MM_HINT_T0);
  if (store == PairStore::kGoOn) {
#pragma GCC unroll 24
    for (int i = 0; i < kRows * kVectors; ++i) {
      const __mmask16 mask = i % kVectors < kVectors - 1 ? __mmask16(0xffff) : last;
      sums[i] = _mm512_maskz_loadu_ps(mask, c + i / kVectors * c_stride + i % kVectors * kLanes);
    }
  }
  for (int64_t k = 0; k < pairs; ++k) {
    __m512i b_row[kVectors];
    if constexpr (kVectors > 1) ahead.step();
#pragma GCC unroll 3
    for (int v = 0; v < kVectors - 1; ++v) b_row[v] = _mm512_loadu_si512(b + v * kLanes);
    b_row[kVectors - 1] = _mm512_maskz_loadu_epi32(last, b + (kVectors - 1) * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m512i value = _mm512_set1_epi32(int(a.data[i * a.row]));
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v)
        sums[i * kVectors + v] =
            _mm512_dpbf16_ps(sums[i * kVectors + v], (__m512bh)b_row[v], (__m512bh)value);
    }
    a.data += a.depth;
    b += b_stride;
  }
  const __m512 factor = _mm512_set1_ps(alpha);
#pragma GCC unroll 24
  for (int i = 0; i < kRows * kVectors; ++i) {
    const __mmask16 mask = i % kVectors < kVectors - 1 ? __mmask16(0xffff) : last;
    float* const at = c + i / kVectors * c_stride + i % kVectors * kLanes;
    __m512 value = _mm512_mul_ps(factor, sums[i]);
    if (store == PairStore::kAccumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), value);
    _mm512_mask_storeu_ps(at, mask, value);
  }
}

template <int kRows, int kVectors>
void rest_of_rows(int64_t rows, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride, float* c,
                  int64_t c_stride, float alpha, PairStore store, __mmask16 last, Ahead::Strip ahead) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      tile<kRows, kVectors>(pairs, a, b, b_stride, c, c_stride, alpha, store, last, ahead);
    } else {
      rest_of_rows<kRows - 1, kVectors>(rows, pairs, a, b, b_stride, c, c_stride, alpha, store, last, ahead);
    }
  }
}

template <int kVectors>
void panel(int64_t rows, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride, float* c,
           int64_t c_stride, float alpha, PairStore store, __mmask16 last, const Ahead& ahead) {
  int64_t strip = 0;
  for (; rows >= kTileRows; rows -= kTileRows, ++strip) {
    tile<kTileRows, kVectors>(pairs, a, b, b_stride, c, c_stride, alpha, store, last,
                              ahead.strip(strip, pairs, c));
    a.data += kTileRows * a.row;
    c += kTileRows * c_stride;
  }
  rest_of_rows<kTileRows - 1, kVectors>(rows, pairs, a, b, b_stride, c, c_stride, alpha, store, last,
                                        ahead.strip(strip, pairs, c));
}

// Pairs of two rows, of the columns of the mask; second may be null for zeros.
__m512i pairs_of_rows(const float* first, const float* second, __mmask16 mask) {
  const __m512 high = second == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, second);
  return interleaved(rounded(_mm512_maskz_loadu_ps(mask, first), high));
}
__m512i pairs_of_rows(const uint16_t* first, const uint16_t* second, __mmask16 mask) {
  const __m256i high = second == nullptr ? _mm256_setzero_si256() : _mm256_maskz_loadu_epi16(mask, second);
  return interleaved(
      _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(mask, first)), high, 1));
}

template <typename Value>
void pack_transposed(const Value* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                     int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t count = std::min(kLanes, rows - r);
    for (int64_t c = 0; c < cols; c += 2 * kLanes) {
      const Value* const at = from + r * stride + c;
      Pair* const pairs = to + c / 2 * to_stride + r;
      __m512i block[16];
      if (count == kLanes && c + 2 * kLanes <= cols) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes; ++i) block[i] = load_along(at + i * stride);
        transpose(block);
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes; ++i) _mm512_storeu_si512(pairs + i * to_stride, block[i]);
        continue;
      }
      for (int64_t i = 0; i < kLanes; ++i)
        block[i] = i < count ? load_along(at + i * stride, cols - c) : _mm512_setzero_si512();
      transpose(block);
      const __mmask16 mask = mask_of(count);
      for (int64_t i = 0; i < std::min(kLanes, pairs_of(cols - c)); ++i)
        _mm512_mask_storeu_epi32(pairs + i * to_stride, mask, block[i]);
    }
  }
}

// Rows of what is wide whose columns all pass before the next rows, which are called into the second-level
// cache meanwhile: both must find room there, also where rows lie a power of two apart and share few of its
// lines. Measured on Zen 4, 768 and 2048 columns that come from memory, 16 sums each: 32 rows 92 to 133
// GFLOP/s, 64 rows 138 to 157, 128 rows 123 to 147; packed first and not called for 63 to 78.
constexpr int64_t kThinRows = 64;

// kThin sums of kVectors vectors.
template <int kThin, int kVectors, typename Value>
inline __attribute__((always_inline)) void thin_tile(const Pair* thin, const Value* wide, int64_t rows,
                                                     int64_t stride, float* sums, int64_t sums_stride,
                                                     bool go_on, __mmask16 last) {
  __m512 sum[kThin * kVectors];
  const auto mask_at = [&](int v) { return v < kVectors - 1 ? __mmask16(0xffff) : last; };
#pragma GCC unroll 32
  for (int i = 0; i < kThin * kVectors; ++i) {
    const int t = i / kVectors, v = i % kVectors;
    sum[i] =
        go_on ? _mm512_maskz_loadu_ps(mask_at(v), sums + t * sums_stride + v * kLanes) : _mm512_setzero_ps();
  }
  const auto step = [&](const Value* first, const Value* second) __attribute__((always_inline)) {
    __m512i right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      right[v] =
          pairs_of_rows(first + v * kLanes, second == nullptr ? nullptr : second + v * kLanes, mask_at(v));
#pragma GCC unroll 16
    for (int t = 0; t < kThin; ++t) {
      const __m512i value = _mm512_set1_epi32(int(thin[t]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[t * kVectors + v] = _mm512_dpbf16_ps(sum[t * kVectors + v], (__m512bh)right[v], (__m512bh)value);
    }
    thin += kThin;
  };
  int64_t r = 0;
  for (; r + 1 < rows; r += 2, wide += 2 * stride) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      _mm_prefetch(reinterpret_cast<const char*>(wide + kThinRows * stride + v * kLanes), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(wide + (kThinRows + 1) * stride + v * kLanes), _MM_HINT_T1);
    }
    step(wide, wide + stride);
  }
  if (r < rows) step(wide, nullptr);
#pragma GCC unroll 32
  for (int i = 0; i < kThin * kVectors; ++i) {
    const int t = i / kVectors, v = i % kVectors;
    _mm512_mask_storeu_ps(sums + t * sums_stride + v * kLanes, mask_at(v), sum[i]);
  }
}

template <int kThin, typename Value>
void multiply_thin_of(const Pair* thin, const Value* wide, int64_t rows, int64_t cols, int64_t stride,
                      float* sums, bool go_on) {
  constexpr int kVectors = kThin <= 4 ? 4 : kThin <= 12 ? 2 : 1;
  for (int64_t r = 0; r < rows || r == 0; r += kThinRows) {
    const int64_t part = std::min(kThinRows, rows - r);
    const Pair* const left = thin + r / 2 * kThin;
    const Value* const right = wide + r * stride;
    int64_t c = 0;
    for (; c + kVectors * kLanes <= cols; c += kVectors * kLanes)
      thin_tile<kThin, kVectors>(left, right + c, part, stride, sums + c, cols, go_on || r > 0,
                                 __mmask16(0xffff));
    for (; c < cols; c += kLanes)
      thin_tile<kThin, 1>(left, right + c, part, stride, sums + c, cols, go_on || r > 0, mask_of(cols - c));
  }
}

template <typename Value>
void multiply_thin_any(const Pair* thin, int64_t count, const Value* wide, int64_t rows, int64_t cols,
                       int64_t stride, float* sums, bool go_on) {
  switch (thin_width(count)) {
    case 4:
      return multiply_thin_of<4>(thin, wide, rows, cols, stride, sums, go_on);
    case 8:
      return multiply_thin_of<8>(thin, wide, rows, cols, stride, sums, go_on);
    case 12:
      return multiply_thin_of<12>(thin, wide, rows, cols, stride, sums, go_on);
    default:
      return multiply_thin_of<16>(thin, wide, rows, cols, stride, sums, go_on);
  }
}

}  // namespace

void pack_pairs_along(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                      int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* const row = from + r * stride;
    Pair* const pairs = to + r * to_stride;
    int64_t c = 0;
    for (; c + 2 * kLanes <= cols; c += 2 * kLanes) _mm512_storeu_si512(pairs + c / 2, load_along(row + c));
    if (c < cols)
      _mm512_mask_storeu_epi32(pairs + c / 2, mask_of(pairs_of(cols - c)), load_along(row + c, cols - c));
  }
}

void pack_pairs_across(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                       int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += 2) {
    const float *const first = from + r * stride, *const second = first + stride;
    Pair* const pairs = to + r / 2 * to_stride;
    int64_t c = 0;
    for (; r + 1 < rows && c + kLanes <= cols; c += kLanes) {
      _mm_prefetch(reinterpret_cast<const char*>(first + kRowsToCome * stride + c), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(second + kRowsToCome * stride + c), _MM_HINT_T1);
      const __m512i both = rounded(_mm512_loadu_ps(first + c), _mm512_loadu_ps(second + c));
      _mm512_storeu_si512(pairs + c, interleaved(both));
    }
    for (; c < cols; c += kLanes) {
      const __mmask16 mask = mask_of(cols - c);
      const __m512 low = _mm512_maskz_loadu_ps(mask, first + c);
      const __m512 high = r + 1 < rows ? _mm512_maskz_loadu_ps(mask, second + c) : _mm512_setzero_ps();
      _mm512_mask_storeu_epi32(pairs + c, mask, interleaved(rounded(low, high)));
    }
  }
}

void pack_pairs_transposed(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                           int64_t to_stride) {
  pack_transposed(from, rows, cols, stride, to, to_stride);
}
void pack_pairs_transposed(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                           int64_t to_stride) {
  pack_transposed(from, rows, cols, stride, to, to_stride);
}

void multiply_pairs(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                    float* c, int64_t c_stride, float alpha, PairStore store, const Ahead& ahead) {
  for (int64_t begin = 0; begin < cols;) {
    const int64_t left = (cols - begin + kLanes - 1) / kLanes;
    const int64_t vectors = left == 4 ? 2 : std::min<int64_t>(left, 3);  // 2 + 2 is better than 3 + 1
    const __mmask16 last = mask_of(cols - begin - (vectors - 1) * kLanes);
    if (vectors == 1) {
      panel<1>(rows, pairs, a, b + begin, b_stride, c + begin, c_stride, alpha, store, last, ahead);
    } else if (vectors == 2) {
      panel<2>(rows, pairs, a, b + begin, b_stride, c + begin, c_stride, alpha, store, last, ahead);
    } else {
      panel<3>(rows, pairs, a, b + begin, b_stride, c + begin, c_stride, alpha, store, last, ahead);
    }
    begin += vectors * kLanes;
  }
}

void multiply_thin(const Pair* thin, int64_t count, const float* wide, int64_t rows, int64_t cols,
                   int64_t stride, float* sums, bool go_on) {
  multiply_thin_any(thin, count, wide, rows, cols, stride, sums, go_on);
}
void multiply_thin(const Pair* thin, int64_t count, const uint16_t* wide, int64_t rows, int64_t cols,
                   int64_t stride, float* sums, bool go_on) {
  multiply_thin_any(thin, count, wide, rows, cols, stride, sums, go_on);
}

}  // namespace coppice::native

HWY_POP_ATTRIBUTES
