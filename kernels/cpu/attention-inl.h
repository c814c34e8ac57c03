// The operands of attention's products, packed once for all products that they take part in, and the products
// themselves: in float32 where they stand, copied or transposed, in bfloat16 as pairs. An element of a
// product is one chain in either. Compiled once for each instruction set.
//
// Left sides are [rows, depth], right sides [depth, columns]. In bfloat16 a left side's pairs follow each
// other, and the depth over keys or queries is filled up with zeros to a multiple of kWhole: so most of what
// tile_gemm-inl.h loads are whole register tiles where they stand.

#if defined(COPPICE_KERNELS_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef COPPICE_KERNELS_CPU_ATTENTION_INL_H_
#undef COPPICE_KERNELS_CPU_ATTENTION_INL_H_
#else
#define COPPICE_KERNELS_CPU_ATTENTION_INL_H_
#endif

#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/bf16_gemm.h"
#include "kernels/cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {

// Rows of float32 in scratch.
inline Matrix matrix_at(float* data, int64_t rows, int64_t cols, int64_t stride) {
  return {reinterpret_cast<std::byte*>(data), DType::kF32, rows, cols, stride};
}

template <bool kBf16>
struct Operands;

template <>
struct Operands<false> {
  using Left = LeftOperand;
  struct Right {
    const float* data;
    int64_t stride;
  };

  // Floats of scratch for a side, by the rows and columns of its source.
  static int64_t floats_left(int64_t, int64_t) { return 0; }
  static int64_t floats_right(int64_t rows, int64_t cols) { return rows * cols; }

  // x as a left side.
  static HWY_INLINE Left left(const Matrix& x, float*) { return {x.as<float>(), x.stride, 1}; }
  // The transpose of x as a left side of depth `depth`.
  static HWY_INLINE Left left_transposed(const Matrix& x, int64_t, float*) {
    return {x.as<float>(), 1, x.stride};
  }
  // x as a right side of so many products: a copy where rows lie far apart, since of those whose distance is
  // a power of two few would find room in the first-level cache.
  static constexpr int64_t kNearStride = 128;
  static HWY_INLINE Right right(const Matrix& x, int64_t products, float* to) {
    if (products == 1 || x.stride <= kNearStride) return {x.as<float>(), x.stride};
    for (int64_t r = 0; r < x.rows; ++r) std::copy_n(f32_row(x, r), x.cols, to + r * x.cols);
    return {to, x.cols};
  }
  // The transpose of x as a right side, [cols, columns].
  static HWY_INLINE Right right_transposed(const Matrix& x, int64_t columns, float* to) {
    transpose_into(x.as<float>(), x.rows, x.cols, x.stride, to, columns);
    return {to, columns};
  }

  // How many keys are computed where so many can be seen.
  static int64_t computed(int64_t visible) { return visible; }

  static HWY_INLINE void multiply(int64_t rows, int64_t cols, int64_t depth, Left a, Right b, float* c,
                                  int64_t stride) {
    HWY_NAMESPACE::multiply(rows, cols, depth, a, b.data, b.stride, c, stride, 1, Store::kOverwrite);
  }
  static HWY_INLINE void multiply_add(int64_t rows, int64_t cols, int64_t depth, Left a, Right b, float* c,
                                      int64_t stride) {
    HWY_NAMESPACE::multiply(rows, cols, depth, a, b.data, b.stride, c, stride, 1, Store::kAccumulate);
  }
};

template <>
struct Operands<true> {
  using Left = PairsOfRows;
  struct Right {
    const Pair* data;
    int64_t stride;
  };

  static int64_t floats_left(int64_t rows, int64_t cols) {
    return std::max(round_up(rows, kWhole) * pairs_of(cols), round_up(rows, kWhole) / 2 * cols);
  }
  static int64_t floats_right(int64_t rows, int64_t cols) {
    return std::max(rows * pairs_of(cols), round_up(rows, kWhole) / 2 * cols);
  }

  static HWY_INLINE Left left(const Matrix& x, float* to) {
    Pair* const pairs = reinterpret_cast<Pair*>(to);
    const int64_t stride = pairs_of(x.cols);
    with_elements(x, [&](auto element) {
      pack_pairs_along(x.as<decltype(element)>(), x.rows, x.cols, x.stride, pairs, stride);
    });
    return {pairs, stride, 1};
  }
  static HWY_INLINE Left left_transposed(const Matrix& x, int64_t depth, float* to) {
    constexpr int64_t kSide = 64;  // of what is packed across, then turned
    HWY_ALIGN float across[kSide / 2 * kSide];
    const int64_t stride = depth / 2;
    for (int64_t r = 0; r < depth; r += kSide) {
      const int64_t pairs = std::min(kSide, depth - r) / 2, rows = std::clamp<int64_t>(x.rows - r, 0, kSide);
      for (int64_t c = 0; c < x.cols; c += kSide) {
        const int64_t cols = std::min(kSide, x.cols - c);
        with_elements(x, [&](auto element) {
          pack_pairs_across(row_of<decltype(element)>(x, r) + c, rows, cols, x.stride,
                            reinterpret_cast<Pair*>(across), kSide);
        });
        std::fill(across + pairs_of(rows) * kSide, across + pairs * kSide, 0.0f);
        transpose_into(across, pairs, cols, kSide, to + c * stride + r / 2, stride);
      }
    }
    return {reinterpret_cast<const Pair*>(to), stride, 1};
  }
  static HWY_INLINE Right right(const Matrix& x, int64_t, float* to) {
    Pair* const pairs = reinterpret_cast<Pair*>(to);
    with_elements(x, [&](auto element) {
      pack_pairs_across(x.as<decltype(element)>(), x.rows, x.cols, x.stride, pairs, x.cols);
    });
    const int64_t packed = pairs_of(x.rows), whole = round_up(x.rows, kWhole) / 2;
    std::fill_n(pairs + packed * x.cols, (whole - packed) * x.cols, 0);
    return {pairs, x.cols};
  }
  static HWY_INLINE Right right_transposed(const Matrix& x, int64_t columns, float* to) {
    Pair* const pairs = reinterpret_cast<Pair*>(to);
    with_elements(x, [&](auto element) {
      pack_pairs_transposed(x.as<decltype(element)>(), x.rows, x.cols, x.stride, pairs, columns);
    });
    return {pairs, columns};
  }

  static int64_t computed(int64_t visible) { return round_up(visible, kWhole); }

  static HWY_INLINE void multiply(int64_t rows, int64_t cols, int64_t depth, Left a, Right b, float* c,
                                  int64_t stride) {
    multiply_pairs(rows, cols, pairs_of(depth), a, b.data, b.stride, c, stride, 1, PairStore::kOverwrite);
  }
  // The chains go on: on tiles it is cheaper than an addition.
  static HWY_INLINE void multiply_add(int64_t rows, int64_t cols, int64_t depth, Left a, Right b, float* c,
                                      int64_t stride) {
    multiply_pairs(rows, cols, pairs_of(depth), a, b.data, b.stride, c, stride, 1, PairStore::kGoOn);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#endif
