#include "kernels/cpu/low_rank.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/low_rank.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

void add_thin(int64_t rows, int64_t cols, int64_t rank, const float* a, int64_t a_stride, const float* b,
              float* c, int64_t c_stride, float alpha) {
  multiply(rows, cols, rank, {a, a_stride, 1}, b, cols, c, c_stride, alpha, Store::kAccumulate);
}

// [rows, cols] as its transpose, [cols, rows], dense.
void turn_thin(const float* from, int64_t rows, int64_t cols, int64_t stride, float* to) {
  transpose_into(from, rows, cols, stride, to, rows);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>

#include "common/base/check.h"
#include "common/base/thread_pool.h"
#include "kernels/host_backend.h"

namespace coppice {
namespace {

HWY_EXPORT(add_thin);
HWY_EXPORT(turn_thin);

// Columns [column, column + count) of a right side, packed [pairs of its depth, count] to whole pairs. The
// matrix is [depth, columns], or transposed.
void pack_columns(const Matrix& matrix, bool transposed, int64_t column, int64_t count, int64_t pairs,
                  Pair* to) {
  if (transposed) {
    pack_pairs_transposed(f32_row(matrix, column), count, matrix.cols, matrix.stride, to, count);
  } else {
    pack_pairs_across(f32_row(matrix, 0) + column, matrix.rows, count, matrix.stride, to, count);
  }
  const int64_t packed = pairs_of(transposed ? matrix.cols : matrix.rows);
  std::fill(to + packed * count, to + pairs * count, 0);
}

}  // namespace

LowRank::LowRank(Backend& backend, ThreadPool& pool, std::span<const LowRankItem> items, bool turned,
                 DType compute, Matrix x, int64_t panel, int64_t slots)
    : turned_(turned), bf16_(compute == DType::kBF16), slots_(slots), pairs_(pairs_of(x.cols)) {
  if (items.empty()) return;
  int64_t firsts = 0, inners = 0;
  for (const LowRankItem& each : items) {
    const int64_t rank = each.down.rows;
    CHECK(each.up.cols == rank && each.inner.cols == rank);
    CHECK(each.row >= 0 && each.row + each.inner.rows <= x.rows);
    CHECK((turned ? each.up.rows : each.down.cols) == x.cols);
    const int64_t words = bf16_ ? whole_pairs(pairs_of(rank)) : rank;
    items_.push_back({&each, rank, words, firsts, inners, slot_words_});
    firsts += pairs_ * rank;
    inners += each.inner.rows * words;
    slot_words_ += words * panel;
  }
  seconds_ = backend.allocate(size_t(slot_words_ * slots * pool.threads()) * sizeof(Pair));
  if (bf16_) {
    firsts_ = backend.allocate(size_t(firsts) * sizeof(Pair));
    inners_ = backend.allocate(size_t(inners) * sizeof(Pair));
    pool.parallel_for(int64_t(items_.size()), [&](int64_t i, int) {
      const Item& item = items_[size_t(i)];
      pack_columns(first_factor(item), !turned_, 0, item.rank, pairs_,
                   reinterpret_cast<Pair*>(firsts_.data()) + item.first);
    });
    return;
  }
  std::vector<MatmulItem> products;
  for (const Item& item : items_) {
    products.push_back({.a = x.row_range(item.row(), item.rows()),
                        .b = first_factor(item),
                        .c = item.low_rank->inner,
                        .transpose_b = !turned_,
                        .alpha = first_scale(item)});
  }
  backend.grouped_matmul(products, compute);
}

void LowRank::compute_inner(int64_t row, int64_t rows, PairsOfRows x) const {
  for (const Item& item : items_) {
    const int64_t begin = std::max(row, item.row()), end = std::min(row + rows, item.row() + item.rows());
    if (begin >= end) continue;
    const int64_t count = end - begin;
    const Matrix inner = item.low_rank->inner.row_range(begin - item.row(), count);
    multiply_pairs(count, item.rank, pairs_, {x.data + (begin - row) * x.row, x.row, x.depth},
                   reinterpret_cast<const Pair*>(firsts_.data()) + item.first, item.rank, f32_row(inner, 0),
                   inner.stride, first_scale(item), PairStore::kOverwrite);
    Pair* const packed =
        reinterpret_cast<Pair*>(inners_.data()) + item.inner + (begin - item.row()) * item.words;
    pack_pairs_along(f32_row(inner, 0), count, item.rank, inner.stride, packed, item.words);
    if (const int64_t own = pairs_of(item.rank); own < item.words)
      for (int64_t r = 0; r < count; ++r)
        std::fill(packed + r * item.words + own, packed + (r + 1) * item.words, 0);
  }
}

Pair* LowRank::slot(const Item& item, int64_t slot, int worker) const {
  return reinterpret_cast<Pair*>(seconds_.data()) + (worker * slots_ + slot) * slot_words_ + item.second;
}

void LowRank::prepare(int64_t row, int64_t end, int64_t column, int64_t count, int64_t slot_number,
                      int worker) const {
  for (const Item& item : items_) {
    if (item.row() >= end || item.row() + item.rows() <= row) continue;
    Pair* const to = slot(item, slot_number, worker);
    const Matrix& factor = second_factor(item);
    if (bf16_) {
      pack_columns(factor, !turned_, column, count, item.words, to);
    } else if (turned_) {
      for (int64_t r = 0; r < item.rank; ++r)
        std::copy_n(f32_row(factor, r) + column, count, reinterpret_cast<float*>(to) + r * count);
    } else {
      HWY_DYNAMIC_DISPATCH(turn_thin)
      (f32_row(factor, column), count, item.rank, factor.stride, reinterpret_cast<float*>(to));
    }
  }
}

void LowRank::add(int64_t row, int64_t rows, int64_t count, int64_t slot_number, int worker, float* y,
                  int64_t stride) const {
  for (const Item& item : items_) {
    const int64_t begin = std::max(row, item.row()), end = std::min(row + rows, item.row() + item.rows());
    if (begin >= end) continue;
    const Pair* const right = slot(item, slot_number, worker);
    float* const to = y + (begin - row) * stride;
    if (bf16_) {
      const Pair* const left =
          reinterpret_cast<const Pair*>(inners_.data()) + item.inner + (begin - item.row()) * item.words;
      multiply_pairs(end - begin, count, item.words, {left, item.words, 1}, right, count, to, stride,
                     second_scale(item), PairStore::kAccumulate);
    } else {
      const Matrix inner = item.low_rank->inner.row_range(begin - item.row(), end - begin);
      HWY_DYNAMIC_DISPATCH(add_thin)
      (end - begin, count, item.rank, f32_row(inner, 0), inner.stride, reinterpret_cast<const float*>(right),
       to, stride, second_scale(item));
    }
  }
}

}  // namespace coppice
#endif
