// Products of adapters: many small ones in one call. c is cut into blocks; a block is one product by
// gemm-inl.h, or in BF16 by bf16_gemm.h, whose elements do not know the block they are in, so the cut may
// follow the machine.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/grouped_matmul.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/gemm-inl.h"

#ifndef COPPICE_KERNELS_CPU_GROUPED_MATMUL_ONCE
#define COPPICE_KERNELS_CPU_GROUPED_MATMUL_ONCE
namespace coppice {
namespace {

constexpr int64_t kPartDepth = 256;     // summed at a time
constexpr int64_t kTurnedColumns = 32;  // the widest gradient that is computed as its transpose

// A factor's gradient, summed over rows of both operands.
bool is_turned(const MatmulItem& item, const Block& block) {
  return item.transpose_a && !item.transpose_b && block.cols <= kTurnedColumns && block.cols < block.rows;
}

}  // namespace
}  // namespace coppice
#endif

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

// c (+)= alpha sums, [rows, cols], the sums dense.
void store_sums(const float* sums, int64_t rows, int64_t cols, float* c, int64_t stride, float alpha,
                bool accumulate) {
  for (int64_t r = 0; r < rows; ++r) {
    float* const to = c + r * stride;
    const float* const from = sums + r * cols;
    for_columns(cols, [=](int64_t i, auto part) HWY_ATTR {
      const Vec value = hn::Mul(set(alpha), load(from + i, part));
      store(accumulate ? hn::Add(load(to + i, part), value) : value, to + i, part);
    });
  }
}

// The same of sums that stand turned, [cols, rows]; sums: scratch.
void store_turned(const float* turned, float* sums, int64_t rows, int64_t cols, float* c, int64_t stride,
                  float alpha, bool accumulate) {
  transpose_into(turned, cols, rows, rows, sums, cols);
  store_sums(sums, rows, cols, c, stride, alpha, accumulate);
}

// A gradient of few columns as its transpose, c' = b' a: what is loaded in vectors is then a's long rows, and
// what is loaded one by one b's short ones. The chains are the same.
HWY_INLINE void turned_block(const MatmulItem& item, const Block& block, float* scratch) {
  float *const turned = scratch, *const sums = scratch + block.rows * block.cols;
  for (int64_t k = 0; k < item.a.rows || k == 0; k += kPartDepth) {
    const int64_t part = std::min(kPartDepth, item.a.rows - k);
    multiply(block.cols, block.rows, part, {f32_row(item.b, k) + block.column, 1, item.b.stride},
             f32_row(item.a, k) + block.row, item.a.stride, turned, block.rows, 1,
             k == 0 ? Store::kOverwrite : Store::kGoOn);
  }
  store_turned(turned, sums, block.rows, block.cols, f32_row(item.c, block.row) + block.column, item.c.stride,
               item.alpha, item.accumulate);
}

// scratch: of the size that scratch_floats() says. A great depth is summed in parts, for which b stays in the
// first-level cache while the rows of a pass.
void product_block(const MatmulItem& item, const Block& block, float* scratch) {
  if (is_turned(item, block)) return turned_block(item, block, scratch);
  const int64_t depth = item.transpose_a ? item.a.rows : item.a.cols;
  const bool whole = depth <= kPartDepth;
  float* const c = f32_row(item.c, block.row) + block.column;
  float* const sums = whole ? c : scratch;
  float* const turned = whole ? scratch : scratch + block.rows * block.cols;
  const int64_t sums_stride = whole ? item.c.stride : block.cols;
  for (int64_t k = 0; k < depth || k == 0; k += kPartDepth) {
    const int64_t part = std::min(kPartDepth, depth - k);
    const LeftOperand a = item.transpose_a ? LeftOperand{f32_row(item.a, k) + block.row, 1, item.a.stride}
                                           : LeftOperand{f32_row(item.a, block.row) + k, item.a.stride, 1};
    const float* b = f32_row(item.b, item.transpose_b ? 0 : k) + block.column;
    int64_t b_stride = item.b.stride;
    if (item.transpose_b) {
      transpose_into(f32_row(item.b, block.column) + k, block.cols, part, item.b.stride, turned, block.cols);
      b = turned, b_stride = block.cols;
    }
    const Store store = whole ? (item.accumulate ? Store::kAccumulate : Store::kOverwrite)
                              : (k == 0 ? Store::kOverwrite : Store::kGoOn);
    multiply(block.rows, block.cols, part, a, b, b_stride, sums, sums_stride, whole ? item.alpha : 1, store);
  }
  if (!whole) store_sums(sums, block.rows, block.cols, c, item.c.stride, item.alpha, item.accumulate);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "common/base/check.h"
#include "kernels/cpu/bf16_gemm.h"
#include "kernels/cpu/bf16_gemm_native.h"
#include "kernels/cpu/instruction_set.h"

namespace coppice {
namespace {

HWY_EXPORT(product_block);
HWY_EXPORT(store_sums);
HWY_EXPORT(store_turned);

// Enough rows to be worth the transposition of a block of b, enough columns for the widest tile to repeat.
constexpr Cut kBlock = {128, 240};

constexpr Cut kBf16Block = {256, 240};
constexpr int64_t kBf16Depth = 256;  // packed at a time, so that it stays in the second-level cache

// A gradient that the processor's instruction computes from rows of the wide operand as they stand.
bool is_thin(const MatmulItem& item) {
  return item.transpose_a && !item.transpose_b && std::min(item.c.rows, item.c.cols) <= kTurnedColumns &&
         has_bf16_products() && !has_amx();
}

// A block of such a one, as its transpose where c has few columns.
struct ThinBlock {
  ThinBlock(const MatmulItem& item, const Block& block)
      : turned(item.c.cols < item.c.rows),
        thin(turned ? item.b : item.a),
        wide(turned ? item.a : item.b),
        first(turned ? block.column : block.row),
        count(turned ? block.cols : block.rows),
        column(turned ? block.row : block.column),
        cols(turned ? block.rows : block.cols),
        sums_floats(native::thin_width(count) * cols),
        turned_floats(turned ? count * cols : 0),
        packed_pairs(pairs_of(std::min(thin.rows, kBf16Depth)) * native::kMostThin) {}

  const bool turned;
  const Matrix &thin, &wide;
  const int64_t first, count;                              // columns of thin
  const int64_t column, cols;                              // of wide
  const int64_t sums_floats, turned_floats, packed_pairs;  // scratch, in this order
};

int64_t scratch_floats(const MatmulItem& item, const Block& block, bool bf16) {
  const int64_t depth = item.transpose_a ? item.a.rows : item.a.cols, sums = block.rows * block.cols;
  const bool turned = is_turned(item, block);
  if (bf16 && is_thin(item)) {
    const ThinBlock thin(item, block);
    return thin.sums_floats + thin.turned_floats + thin.packed_pairs;
  }
  if (bf16) {
    const int64_t packed = whole_pairs(pairs_of(std::min(depth, kBf16Depth))) * (block.rows + block.cols);
    return packed + (turned ? 2 * sums : depth > kBf16Depth ? sums : 0);
  }
  if (turned) return 2 * sums;
  return (depth > kPartDepth ? sums : 0) + (item.transpose_b ? block.cols * std::min(depth, kPartDepth) : 0);
}

// f(where element (row, column) stands, in the matrix's dtype).
template <typename F>
void from_element(const Matrix& x, int64_t row, int64_t column, const F& f) {
  if (x.dtype == DType::kBF16) {
    f(bf16_row(x, row) + column);
  } else {
    f(f32_row(x, row) + column);
  }
}

// The sides of a part [k, k + part) of the depth, packed to whole pairs.
void pack_across_whole(const Matrix& x, int64_t k, int64_t part, int64_t column, int64_t cols, Pair* to) {
  const int64_t pairs = pairs_of(part);
  from_element(x, k, column,
               [&](const auto* from) { pack_pairs_across(from, part, cols, x.stride, to, cols); });
  std::fill_n(to + pairs * cols, (whole_pairs(pairs) - pairs) * cols, 0);
}

PairsOfRows pack_left(const MatmulItem& item, const Block& block, int64_t k, int64_t part, Pair* to) {
  const int64_t rows = block.rows, pairs = pairs_of(part), whole = whole_pairs(pairs);
  if (item.transpose_a) {
    pack_across_whole(item.a, k, part, block.row, rows, to);
    return {to, 1, rows};
  }
  from_element(item.a, block.row, k,
               [&](const auto* from) { pack_pairs_along(from, rows, part, item.a.stride, to, whole); });
  if (whole > pairs)
    for (int64_t r = 0; r < rows; ++r) std::fill(to + r * whole + pairs, to + (r + 1) * whole, 0);
  return {to, whole, 1};
}

void pack_right(const MatmulItem& item, const Block& block, int64_t k, int64_t part, Pair* to) {
  const int64_t cols = block.cols, pairs = pairs_of(part);
  if (!item.transpose_b) return pack_across_whole(item.b, k, part, block.column, cols, to);
  from_element(item.b, block.column, k,
               [&](const auto* from) { pack_pairs_transposed(from, cols, part, item.b.stride, to, cols); });
  std::fill_n(to + pairs * cols, (whole_pairs(pairs) - pairs) * cols, 0);
}

// As turned_block(): c' = b' a, then turned.
void turned_block_bf16(const MatmulItem& item, const Block& block, float* scratch) {
  const int64_t depth = item.a.rows, rows = block.rows, cols = block.cols;
  const int64_t most_pairs = whole_pairs(pairs_of(std::min(depth, kBf16Depth)));
  Pair* const a = reinterpret_cast<Pair*>(scratch);
  Pair* const b = a + most_pairs * rows;
  float *const turned = reinterpret_cast<float*>(b + most_pairs * cols), *const sums = turned + rows * cols;
  for (int64_t k = 0; k < depth || k == 0; k += kBf16Depth) {
    const int64_t part = std::min(kBf16Depth, depth - k);
    pack_across_whole(item.a, k, part, block.row, rows, a);
    pack_across_whole(item.b, k, part, block.column, cols, b);
    multiply_pairs(cols, rows, whole_pairs(pairs_of(part)), {b, 1, cols}, a, rows, turned, rows, 1,
                   k == 0 ? PairStore::kOverwrite : PairStore::kGoOn);
  }
  HWY_DYNAMIC_DISPATCH(store_turned)
  (turned, sums, rows, cols, f32_row(item.c, block.row) + block.column, item.c.stride, item.alpha,
   item.accumulate);
}

// A part of the depth passes all that is thin before the next: it stays in the second-level cache.
void thin_block_bf16(const MatmulItem& item, const Block& block, float* scratch) {
  const ThinBlock at(item, block);
  float *const sums = scratch, *const turned = sums + at.sums_floats;
  Pair* const packed = reinterpret_cast<Pair*>(turned + at.turned_floats);
  const int64_t depth = at.thin.rows;
  for (int64_t k = 0; k < depth || k == 0; k += kBf16Depth) {
    const int64_t part = std::min(kBf16Depth, depth - k);
    for (int64_t t = 0; t < at.count; t += native::kMostThin) {
      const int64_t some = std::min(native::kMostThin, at.count - t), width = native::thin_width(some);
      if (width > some) std::fill_n(packed, pairs_of(part) * width, 0);
      from_element(at.thin, k, at.first + t, [&](const auto* from) {
        pack_pairs_across(from, part, some, at.thin.stride, packed, width);
      });
      from_element(at.wide, k, at.column, [&](const auto* from) {
        native::multiply_thin(packed, some, from, part, at.cols, at.wide.stride, sums + t * at.cols, k > 0);
      });
    }
  }
  float* const c = f32_row(item.c, block.row) + block.column;
  if (at.turned) {
    HWY_DYNAMIC_DISPATCH(store_turned)
    (sums, turned, block.rows, block.cols, c, item.c.stride, item.alpha, item.accumulate);
  } else {
    HWY_DYNAMIC_DISPATCH(store_sums)
    (sums, block.rows, block.cols, c, item.c.stride, item.alpha, item.accumulate);
  }
}

// scratch: of the size that scratch_floats() says. A depth that is packed in parts has its sums aside until
// the last.
void product_block_bf16(const MatmulItem& item, const Block& block, float* scratch) {
  if (is_thin(item)) return thin_block_bf16(item, block, scratch);
  if (is_turned(item, block)) return turned_block_bf16(item, block, scratch);
  const int64_t depth = item.transpose_a ? item.a.rows : item.a.cols, rows = block.rows, cols = block.cols;
  const int64_t most_pairs = whole_pairs(pairs_of(std::min(depth, kBf16Depth)));
  Pair* const a = reinterpret_cast<Pair*>(scratch);
  Pair* const b = a + most_pairs * rows;
  float* const sums = reinterpret_cast<float*>(b + most_pairs * cols);
  float* const c = f32_row(item.c, block.row) + block.column;
  const bool whole = depth <= kBf16Depth;
  for (int64_t k = 0; k < depth || k == 0; k += kBf16Depth) {
    const int64_t part = std::min(kBf16Depth, depth - k), pairs = whole_pairs(pairs_of(part));
    const PairsOfRows left = pack_left(item, block, k, part, a);
    pack_right(item, block, k, part, b);
    if (whole) {
      multiply_pairs(rows, cols, pairs, left, b, cols, c, item.c.stride, item.alpha,
                     item.accumulate ? PairStore::kAccumulate : PairStore::kOverwrite);
    } else {
      multiply_pairs(rows, cols, pairs, left, b, cols, sums, cols, 1,
                     k == 0 ? PairStore::kOverwrite : PairStore::kGoOn);
    }
  }
  if (!whole) {
    HWY_DYNAMIC_DISPATCH(store_sums)
    (sums, rows, cols, c, item.c.stride, item.alpha, item.accumulate);
  }
}

void check_item(const MatmulItem& item, bool bf16) {
  const int64_t rows = item.transpose_a ? item.a.cols : item.a.rows;
  const int64_t depth = item.transpose_a ? item.a.rows : item.a.cols;
  const int64_t cols = item.transpose_b ? item.b.rows : item.b.cols;
  CHECK(depth == (item.transpose_b ? item.b.cols : item.b.rows));
  CHECK(item.c.rows == rows && item.c.cols == cols);
  for (const Matrix& x : {item.a, item.b}) CHECK(x.dtype == DType::kF32 || (bf16 && x.dtype == DType::kBF16));
  CHECK(item.c.dtype == DType::kF32);
}

}  // namespace

void CpuBackend::grouped_matmul(std::span<const MatmulItem> items, DType compute) {
  CHECK(!unsupported(compute));
  const bool bf16 = compute == DType::kBF16;
  std::vector<Matrix> outputs;
  outputs.reserve(items.size());
  for (const MatmulItem& item : items) {
    check_item(item, bf16);
    outputs.push_back(item.c);
  }
  const BlockPlan plan = plan_blocks(outputs, bf16 ? kBf16Block : kBlock);
  int64_t floats = 0;
  for (size_t task = 0; task < plan.tasks.size(); ++task) {
    plan.run(int64_t(task), outputs, [&](int64_t item, const Block& block) {
      floats = std::max(floats, scratch_floats(items[size_t(item)], block, bf16));
    });
  }
  const Buffer scratch = allocate(size_t(floats * pool().threads()) * sizeof(float));
  pool().parallel_for(int64_t(plan.tasks.size()), [&](int64_t task, int worker) {
    float* const own = reinterpret_cast<float*>(scratch.data()) + floats * worker;
    plan.run(task, outputs, [&](int64_t item, const Block& block) {
      if (bf16) {
        product_block_bf16(items[size_t(item)], block, own);
      } else {
        HWY_DYNAMIC_DISPATCH(product_block)(items[size_t(item)], block, own);
      }
    });
  });
}

}  // namespace coppice
#endif
