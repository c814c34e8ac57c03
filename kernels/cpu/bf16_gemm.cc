// Products of pairs where the processor has no instruction for them: each half of a pair is widened to
// float32, which is exact, and multiplied as gemm-inl.h does it. The right side is widened in registers, once
// for all rows of a tile; the left side into a scratch of the first-level cache, from where it is broadcast
// for nothing. On AVX-512, where widening takes the ports of the multiply-adds, a tile of 8 x 48 costs 54
// operations a pair of 48 that multiply.

#include "kernels/cpu/bf16_gemm.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/bf16_gemm.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

HWY_INLINE WordVec load_pairs(const Pair* from, Whole) {
  return hn::LoadU(Words(), from);
}
HWY_INLINE WordVec load_pairs(const Pair* from, Part part) {
  return hn::MaskedLoad(hn::FirstN(Words(), size_t(part.count)), Words(), from);
}

HWY_INLINE Vec earlier(WordVec pairs) {
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(pairs));
}
HWY_INLINE Vec later(WordVec pairs) {
  // With 16 registers a tile has none for a mask.
  if constexpr (kLanes < 16) return hn::BitCast(Floats(), hn::ShiftLeft<16>(hn::ShiftRight<16>(pairs)));
  return hn::BitCast(Floats(), hn::And(pairs, hn::Set(Words(), 0xffff0000u)));
}

// Columns [c, c + kLanes) of a row, zero beyond cols.
HWY_INLINE Vec load_up_to(const float* row, int64_t c, int64_t cols) {
  if (c + kLanes <= cols) return load(row + c, Whole());
  return c < cols ? load(row + c, Part{cols - c}) : set(0);
}

// What is packed is a part of long rows, which the processor does not see coming: a later row is called for.
constexpr int64_t kLongRowsToCome = 2;

void pack_along(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* const row = from + r * stride;
    for_columns(pairs_of(cols), [&](int64_t k, auto part) HWY_ATTR {
      hwy::Prefetch(row + kLongRowsToCome * stride + 2 * k);
      hwy::Prefetch(row + kLongRowsToCome * stride + 2 * k + kLanes);
      const Vec low = load_up_to(row, 2 * k, cols), high = load_up_to(row, 2 * k + kLanes, cols);
      store_pairs(pairs_along(low, high, false), to + r * to_stride + k, part);
    });
  }
}

void pack_across(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += 2) {
    const float *const first = from + r * stride, *const second = first + stride;
    for_columns(cols, [&](int64_t c, auto part) HWY_ATTR {
      hwy::Prefetch(first + kRowsToCome * stride + c);
      hwy::Prefetch(second + kRowsToCome * stride + c);
      const Vec later = r + 1 < rows ? load(second + c, part) : set(0);
      store_pairs(pair_up(load(first + c, part), later), to + r / 2 * to_stride + c, part);
    });
  }
}

HWY_INLINE WordVec load_halves(const uint16_t* from, Whole) {
  return hn::PromoteTo(Words(), hn::LoadU(hn::Rebind<uint16_t, Words>(), from));
}
HWY_INLINE WordVec load_halves(const uint16_t* from, Part part) {
  const hn::Rebind<uint16_t, Words> halves;
#if HWY_TARGET == HWY_AVX3
  return hn::PromoteTo(Words(), hn::MaskedLoad(hn::FirstN(halves, size_t(part.count)), halves, from));
#else  // has no masked loads of halves
  HWY_ALIGN uint16_t copy[kLanes] = {};
  std::copy_n(from, part.count, copy);
  return hn::PromoteTo(Words(), hn::Load(halves, copy));
#endif
}

void pack_halves_across(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                        int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += 2) {
    const uint16_t *const first = from + r * stride, *const second = first + stride;
    for_columns(cols, [&](int64_t c, auto part) HWY_ATTR {
      hwy::Prefetch(first + kRowsToCome * stride + c);
      hwy::Prefetch(second + kRowsToCome * stride + c);
      WordVec pairs = load_halves(first + c, part);
      if (r + 1 < rows) pairs = hn::Or(pairs, hn::ShiftLeft<16>(load_halves(second + c, part)));
      store_pairs(pairs, to + r / 2 * to_stride + c, part);
    });
  }
}

// Along first, in a block that stays in the first-level cache, then turned.
template <typename Value, typename PackAlong>
HWY_INLINE void pack_turned(const Value* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                            int64_t to_stride, const PackAlong& along) {
  constexpr int64_t kBlock = 32;  // rows, and pairs
  HWY_ALIGN float block[kBlock * kBlock];
  for (int64_t r = 0; r < rows; r += kBlock) {
    const int64_t count = std::min(kBlock, rows - r);
    for (int64_t c = 0; c < cols; c += 2 * kBlock) {
      const int64_t part = std::min(2 * kBlock, cols - c);
      along(from + r * stride + c, count, part, stride, reinterpret_cast<Pair*>(block), kBlock);
      transpose_into(block, count, pairs_of(part), kBlock,
                     reinterpret_cast<float*>(to + c / 2 * to_stride + r), to_stride);
    }
  }
}

void pack_transposed(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                     int64_t to_stride) {
  pack_turned(from, rows, cols, stride, to, to_stride, pack_along);
}
void pack_halves_transposed(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                            int64_t to_stride) {
  using Along = void (*)(const uint16_t*, int64_t, int64_t, int64_t, Pair*, int64_t);
  pack_turned(from, rows, cols, stride, to, to_stride, Along(pack_pairs_along));
}

constexpr int64_t kPartPairs = 256;  // of the left side that are widened at a time

// Of a tile: 24 of 32 registers are sums, or 12 of 16, where pairs are widened to no more than two vectors.
constexpr int kPairRows = kLanes >= 16 ? 8 : 6;
constexpr int kPairVectors = kLanes >= 16 ? 3 : 2;

// Where a tile's left side lies when it is widened: the earlier value of pair k of row i at data[i * kRow + k
// * kDepth], the later one kLater behind it. Rows whose pairs follow each other stay rows (kAlong); where the
// rows of a pair follow each other they stay so.
template <int kRows, bool kAlong>
struct Widened {
  static constexpr int64_t kRow = kAlong ? kPartPairs : 1, kDepth = kAlong ? 1 : 2 * kRows,
                           kLater = kAlong ? kRows * kPartPairs : kRows;
  HWY_ALIGN float data[2 * kRows * kPartPairs + kLanes];

  HWY_INLINE void fill(PairsOfRows a, int64_t pairs) {
    if constexpr (kAlong) {
      for (int64_t i = 0; i < kRows; ++i) {
        for_columns(pairs, [&](int64_t k, auto part) HWY_ATTR {
          const WordVec both = load_pairs(a.data + i * a.row + k, part);
          store(earlier(both), data + i * kRow + k, part);
          store(later(both), data + i * kRow + kLater + k, part);
        });
      }
    } else {
      // A whole vector is stored each time: what is too much, the next one overwrites.
      for (int64_t k = 0; k < pairs; ++k) {
        const WordVec both = load_pairs(a.data + k * a.depth, Part{kRows});
        store(earlier(both), data + k * kDepth, Whole());
        store(later(both), data + k * kDepth + kLater, Whole());
      }
    }
  }
};

template <typename Last, int kVectors>
HWY_INLINE void store_tile_row(const Vec (&sums)[kVectors], float* row, float alpha, PairStore mode,
                               Last last) {
  const auto put = [&](int v, auto part) HWY_ATTR {
    float* const at = row + v * kLanes;
    const Vec value = hn::Mul(set(alpha), sums[v]);
    store(mode == PairStore::kAccumulate ? hn::Add(load(at, part), value) : value, at, part);
  };
  for (int v = 0; v < kVectors - 1; ++v) put(v, Whole());
  put(kVectors - 1, last);
}

// kRows x (kVectors vectors) of c; the last vector may be a part.
template <int kRows, int kVectors, bool kAlong, typename Last>
HWY_INLINE void pair_tile(int64_t pairs, PairsOfRows a, const Pair* HWY_RESTRICT b, int64_t b_stride,
                          float* HWY_RESTRICT c, int64_t c_stride, float alpha, PairStore mode, Last last) {
  Widened<kRows, kAlong> left;
  using Left = Widened<kRows, kAlong>;
  Vec sums[kRows][kVectors];
  for (int i = 0; i < kRows; ++i) {
    float* const row = c + i * c_stride;
    for (int v = 0; v < kVectors; ++v) hwy::Prefetch(row + v * kLanes);
    for (int v = 0; v < kVectors; ++v) sums[i][v] = set(0);
    if (mode != PairStore::kGoOn) continue;
    for (int v = 0; v < kVectors - 1; ++v) sums[i][v] = load(row + v * kLanes, Whole());
    sums[i][kVectors - 1] = load(row + (kVectors - 1) * kLanes, last);
  }
  for (int64_t begin = 0; begin < pairs; begin += kPartPairs) {
    const int64_t part = std::min(kPartPairs, pairs - begin);
    left.fill({a.data + begin * a.depth, a.row, a.depth}, part);
    const float* at = left.data;
    for (int64_t k = 0; k < part; ++k) {
      WordVec both[kVectors];
      for (int v = 0; v < kVectors; ++v) hwy::Prefetch(b + kRowsAhead * b_stride + v * kLanes);
      for (int v = 0; v < kVectors - 1; ++v) both[v] = load_pairs(b + v * kLanes, Whole());
      both[kVectors - 1] = load_pairs(b + (kVectors - 1) * kLanes, last);
      Vec right[kVectors];
      for (int v = 0; v < kVectors; ++v) right[v] = earlier(both[v]);
      for (int i = 0; i < kRows; ++i) {
        const Vec value = set(at[i * Left::kRow]);
        for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::MulAdd(value, right[v], sums[i][v]);
      }
      for (int v = 0; v < kVectors; ++v) right[v] = later(both[v]);
      for (int i = 0; i < kRows; ++i) {
        const Vec value = set(at[i * Left::kRow + Left::kLater]);
        for (int v = 0; v < kVectors; ++v) sums[i][v] = hn::MulAdd(value, right[v], sums[i][v]);
      }
      at += Left::kDepth;
      b += b_stride;
    }
  }
  for (int i = 0; i < kRows; ++i) store_tile_row(sums[i], c + i * c_stride, alpha, mode, last);
}

template <int kRows, int kVectors, bool kAlong, typename Last>
HWY_INLINE void rest_of_pair_rows(int64_t rows, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                                  float* c, int64_t c_stride, float alpha, PairStore mode, Last last) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      pair_tile<kRows, kVectors, kAlong>(pairs, a, b, b_stride, c, c_stride, alpha, mode, last);
    } else {
      rest_of_pair_rows<kRows - 1, kVectors, kAlong>(rows, pairs, a, b, b_stride, c, c_stride, alpha, mode,
                                                     last);
    }
  }
}

template <int kVectors, bool kAlong, typename Last>
HWY_NOINLINE void pair_panel(int64_t rows, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                             float* c, int64_t c_stride, float alpha, PairStore mode, Last last) {
  for (; rows >= kPairRows; rows -= kPairRows) {
    pair_tile<kPairRows, kVectors, kAlong>(pairs, a, b, b_stride, c, c_stride, alpha, mode, last);
    a.data += kPairRows * a.row;
    c += kPairRows * c_stride;
  }
  rest_of_pair_rows<kPairRows - 1, kVectors, kAlong>(rows, pairs, a, b, b_stride, c, c_stride, alpha, mode,
                                                     last);
}

template <bool kAlong, typename Last>
HWY_INLINE void pair_panel_of(int64_t vectors, int64_t rows, int64_t pairs, PairsOfRows a, const Pair* b,
                              int64_t b_stride, float* c, int64_t c_stride, float alpha, PairStore mode,
                              Last last) {
  switch (vectors) {
    case 1:
      return pair_panel<1, kAlong>(rows, pairs, a, b, b_stride, c, c_stride, alpha, mode, last);
    case 2:
      return pair_panel<2, kAlong>(rows, pairs, a, b, b_stride, c, c_stride, alpha, mode, last);
    default:
      return pair_panel<kPairVectors, kAlong>(rows, pairs, a, b, b_stride, c, c_stride, alpha, mode, last);
  }
}

template <bool kAlong>
HWY_INLINE void multiply_panels(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b,
                                int64_t b_stride, float* c, int64_t c_stride, float alpha, PairStore mode) {
  for (int64_t begin = 0; begin < cols;) {
    const int64_t vectors = vectors_of_panel(cols - begin, kPairVectors);
    const int64_t part = cols - begin - (vectors - 1) * kLanes;
    if (part >= kLanes) {
      pair_panel_of<kAlong>(vectors, rows, pairs, a, b + begin, b_stride, c + begin, c_stride, alpha, mode,
                            Whole());
    } else {
      pair_panel_of<kAlong>(vectors, rows, pairs, a, b + begin, b_stride, c + begin, c_stride, alpha, mode,
                            Part{part});
    }
    begin += vectors * kLanes;
  }
}

void multiply_widened(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b,
                      int64_t b_stride, float* c, int64_t c_stride, float alpha, PairStore mode) {
  if (a.depth == 1) {
    multiply_panels<true>(rows, cols, pairs, a, b, b_stride, c, c_stride, alpha, mode);
  } else {
    multiply_panels<false>(rows, cols, pairs, a, b, b_stride, c, c_stride, alpha, mode);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/bf16_gemm_amx.h"
#include "kernels/cpu/bf16_gemm_native.h"
#include "kernels/cpu/instruction_set.h"

namespace coppice {

HWY_EXPORT(pack_along);
HWY_EXPORT(pack_across);
HWY_EXPORT(pack_transposed);
HWY_EXPORT(pack_halves_across);
HWY_EXPORT(pack_halves_transposed);
HWY_EXPORT(multiply_widened);

void pack_pairs_along(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                      int64_t to_stride) {
  if (has_bf16_products()) return native::pack_pairs_along(from, rows, cols, stride, to, to_stride);
  HWY_DYNAMIC_DISPATCH(pack_along)(from, rows, cols, stride, to, to_stride);
}

void pack_pairs_across(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                       int64_t to_stride) {
  if (has_bf16_products()) return native::pack_pairs_across(from, rows, cols, stride, to, to_stride);
  HWY_DYNAMIC_DISPATCH(pack_across)(from, rows, cols, stride, to, to_stride);
}

void pack_pairs_transposed(const float* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                           int64_t to_stride) {
  if (has_bf16_products()) return native::pack_pairs_transposed(from, rows, cols, stride, to, to_stride);
  HWY_DYNAMIC_DISPATCH(pack_transposed)(from, rows, cols, stride, to, to_stride);
}

// Its pairs stand in memory already.
void pack_pairs_along(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                      int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const uint16_t* const row = from + r * stride;
    if (cols > 1) std::memcpy(to + r * to_stride, row, size_t(cols / 2) * sizeof(Pair));
    if (cols % 2 != 0) to[r * to_stride + cols / 2] = row[cols - 1];
  }
}

void pack_pairs_across(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                       int64_t to_stride) {
  HWY_DYNAMIC_DISPATCH(pack_halves_across)(from, rows, cols, stride, to, to_stride);
}

void pack_pairs_transposed(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                           int64_t to_stride) {
  if (has_bf16_products()) return native::pack_pairs_transposed(from, rows, cols, stride, to, to_stride);
  HWY_DYNAMIC_DISPATCH(pack_halves_transposed)(from, rows, cols, stride, to, to_stride);
}

int64_t whole_pairs(int64_t pairs) {
  return has_amx() ? (pairs + kCutPairs - 1) / kCutPairs * kCutPairs : pairs;
}

void multiply_pairs(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                    float* c, int64_t c_stride, float alpha, PairStore store, const Ahead& ahead) {
  if (has_amx())
    return amx::multiply_pairs(rows, cols, pairs, a, b, b_stride, c, c_stride, alpha, store, ahead);
  if (has_bf16_products())
    return native::multiply_pairs(rows, cols, pairs, a, b, b_stride, c, c_stride, alpha, store, ahead);
  HWY_DYNAMIC_DISPATCH(multiply_widened)(rows, cols, pairs, a, b, b_stride, c, c_stride, alpha, store);
}

}  // namespace coppice
#endif
