// The backward of attention, in tiles of queries and keys. The formulas are those of
// kernels/ref/attention.cc. A tile of scores stands turned, keys by queries: so what the products need of it
// next, but for the gradient of the queries, are its rows.
//
// It sums over queries: one task computes all of a key head.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_backward.cc"
#include <hwy/foreach_target.h>

#include <array>

#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/pairs-inl.h"

#ifndef COPPICE_KERNELS_CPU_ATTENTION_BACKWARD_ONCE
#define COPPICE_KERNELS_CPU_ATTENTION_BACKWARD_ONCE
namespace coppice {
namespace {

// Of a tile. Many queries, for dk and dv are sums over them.
constexpr int64_t kKeys = 64, kQueries = 64;
// Tiles of queries that are prepared at a time, and floats for them.
constexpr int64_t kPreparedTiles = 64, kPreparedFloats = 1024 * 1024 / 4;

}  // namespace
}  // namespace coppice
#endif

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

template <bool kBf16>
struct BackwardLayout : ScratchLayout {
  using Side = Operands<kBf16>;
  // Of a tile of queries, one after another: q and dout both ways, dq, and what a query adds to its scores.
  const int64_t turned_floats, side_floats, dq_floats, query_floats, tiles;
  const int64_t queries, k, v, k_turned, dk, dv, scores, dp, p, ds, ds_turned;

  explicit BackwardLayout(const HeadTask& task)
      : turned_floats(round_up(Side::floats_right(kQueries, task.head_dim), 16)),
        side_floats(round_up(Side::floats_right(kQueries, task.head_dim), 16)),
        dq_floats(kQueries * task.head_dim),
        query_floats(2 * turned_floats + 2 * side_floats + dq_floats + 2 * kQueries),
        tiles(std::max<int64_t>(
            1, std::min({kPreparedFloats / query_floats, task.query_tiles(), kPreparedTiles}))),
        queries(take(tiles * query_floats)),
        k(take(Side::floats_left(kKeys, task.head_dim))),
        v(take(Side::floats_left(kKeys, task.head_dim))),
        k_turned(take(Side::floats_left(kKeys, task.head_dim))),
        dk(take(kKeys * task.head_dim)),
        dv(take(kKeys * task.head_dim)),
        scores(take(kKeys * kQueries)),
        dp(take(kKeys * kQueries)),
        p(take(Side::floats_left(kKeys, kQueries))),
        ds(take(Side::floats_left(kKeys, kQueries))),
        ds_turned(take(Side::floats_right(kKeys, kQueries))) {}
};

// A tile of queries of one head, prepared. width: the columns that are computed.
template <bool kBf16>
struct PreparedQueries {
  using Right = typename Operands<kBf16>::Right;
  int64_t head, first, rows, width;
  Right q_turned, dout_turned, q, dout;
  float* dq;                   // turned: [head_dim, kQueries]
  float *log_sums, *products;  // in powers of two; scale dout . out
};

HWY_INLINE Operands<false>::Right rows_from(Operands<false>::Right x, int64_t i) {
  return {x.data + i * x.stride, x.stride};
}
HWY_INLINE Operands<true>::Right rows_from(Operands<true>::Right x, int64_t i) {
  return {x.data + i / 2 * x.stride, x.stride};
}
// The kWhole queries from the i-th on.
template <bool kBf16>
HWY_INLINE PreparedQueries<kBf16> part_of(const PreparedQueries<kBf16>& x, int64_t i) {
  const int64_t rows = std::min(kWhole, x.rows - i);
  return {x.head,
          x.first + i,
          rows,
          round_up(rows, 16),
          {x.q_turned.data + i, x.q_turned.stride},
          {x.dout_turned.data + i, x.dout_turned.stride},
          rows_from(x.q, i),
          rows_from(x.dout, i),
          x.dq + i,
          x.log_sums + i,
          x.products + i};
}

template <bool kBf16>
HWY_INLINE PreparedQueries<kBf16> prepare_queries(const HeadTask& task, const BackwardLayout<kBf16>& at,
                                                  int64_t tile, float* scratch) {
  using Side = Operands<kBf16>;
  const AttentionItem& item = *task.item;
  const int64_t size = task.head_dim;
  PreparedQueries<kBf16> to;
  std::tie(to.head, to.first, to.rows) = task.query_tile(tile);
  to.width = round_up(to.rows, 16);
  const int64_t column = task.column(to.head);
  const Matrix q = task.head_rows(item.q, to.head, to.first, to.rows),
               dout = task.head_rows(task.dout, to.head, to.first, to.rows);
  to.q_turned = Side::right_transposed(q, kQueries, scratch);
  to.dout_turned = Side::right_transposed(dout, kQueries, scratch += at.turned_floats);
  to.q = Side::right(q, task.tiles(), scratch += at.turned_floats);
  to.dout = Side::right(dout, task.tiles(), scratch += at.side_floats);
  to.dq = scratch += at.side_floats;
  to.log_sums = scratch += at.dq_floats;
  to.products = to.log_sums + kQueries;
  std::fill_n(to.dq, at.dq_floats, 0.0f);
  std::fill_n(to.log_sums, 2 * kQueries, 0.0f);
  with_elements(item.out, [&](auto element) HWY_ATTR {
    with_elements(dout, [&](auto gradient) HWY_ATTR {
      for (int64_t i = 0; i < to.rows; ++i) {
        const auto* const g = row_of<decltype(gradient)>(dout, i);
        const auto* const out = row_of<decltype(element)>(item.out, to.first + i) + column;
        to.products[i] = task.scale * sum_columns(size, [=](int64_t c, auto part) HWY_ATTR {
                           return hn::Mul(load(g + c, part), load(out + c, part));
                         });
      }
    });
  });
  for (int64_t i = 0; i < to.rows; ++i) {
    to.log_sums[i] = kLog2E * f32_row(item.log_sum, to.first + i)[task.head(to.head)];
  }
  return to;
}

// p and ds as sides of products: [keys, queries] on the left, ds on the right as well.
template <bool kBf16>
struct Gradients {
  typename Operands<kBf16>::Left p, ds;
  typename Operands<kBf16>::Right ds_right;
};

// Scores and dout v^T, both [keys, kQueries], become p and ds = scale p (dp - dout . out), in their places or
// packed. kMasked: what is not seen of the tile is 0.
template <bool kBf16, bool kMasked>
HWY_INLINE Gradients<kBf16> gradient_tile(const HeadTask& task, const KeyTile& tile,
                                          const PreparedQueries<kBf16>& queries, int64_t keys,
                                          const BackwardLayout<kBf16>& at, float* scratch) {
  float *const scores = scratch + at.scores, *const dp = scratch + at.dp;
  const Vec factor = set(task.scale * kLog2E), scale = set(task.scale);
  const int64_t width = queries.width;
  struct Values {
    Vec p, ds;
  };
  const auto values = [&](int64_t i, int64_t c, Vec log_sum, Vec product) HWY_ATTR -> Values {
    // No probability is above 1, but between huge scores the last bit of one is more than that.
    const Vec difference = hn::MulSub(hn::Load(Floats(), scores + i * kQueries + c), factor, log_sum);
    const Vec p = exp2_of_difference(hn::Min(set(0), difference));  // in this order a NaN comes through
    const Vec ds = hn::Mul(p, hn::MulSub(hn::Load(Floats(), dp + i * kQueries + c), scale, product));
    if constexpr (!kMasked) return {p, ds};
    const int64_t window = task.item->window;
    const int64_t query = tile.first + i - task.number_of(queries.first);  // the first that sees this key
    const int64_t low = i < tile.count ? std::clamp<int64_t>(query, 0, width) : width;
    const int64_t high =
        std::clamp<int64_t>(window > 0 ? query + window : width, low, std::max(low, queries.rows));
    const auto column = hn::Iota(Ints(), int32_t(c));
    const auto seen = hn::RebindMask(Floats(), hn::AndNot(hn::Lt(column, hn::Set(Ints(), int32_t(low))),
                                                          hn::Lt(column, hn::Set(Ints(), int32_t(high)))));
    return {hn::IfThenElseZero(seen, p), hn::IfThenElseZero(seen, ds)};
  };
  if constexpr (!kBf16) {
    for (int64_t c = 0; c < width; c += kLanes) {
      const Vec log_sum = hn::Load(Floats(), queries.log_sums + c),
                product = hn::Load(Floats(), queries.products + c);
      for (int64_t i = 0; i < keys; ++i) {
        const Values v = values(i, c, log_sum, product);
        hn::Store(v.p, Floats(), scores + i * kQueries + c);
        hn::Store(v.ds, Floats(), dp + i * kQueries + c);
      }
    }
    return {{scores, kQueries, 1}, {dp, kQueries, 1}, {dp, kQueries}};
  } else {
    const bool native = has_bf16_products();
    Pair *const p = reinterpret_cast<Pair*>(scratch + at.p),
                *const ds = reinterpret_cast<Pair*>(scratch + at.ds),
                *const ds_right = reinterpret_cast<Pair*>(scratch + at.ds_turned);
    for (int64_t c = 0; c < width; c += 2 * kLanes) {
      const bool both = kLanes < 16 || c + kLanes < width;  // a width is a multiple of 16
      const int64_t c2 = both ? c + kLanes : c;
      const Vec log_sum = hn::Load(Floats(), queries.log_sums + c),
                log_sum2 = hn::Load(Floats(), queries.log_sums + c2),
                product = hn::Load(Floats(), queries.products + c),
                product2 = hn::Load(Floats(), queries.products + c2);
      for (int64_t i = 0; i < keys; i += 2) {
        const Values first = values(i, c, log_sum, product), second = values(i + 1, c, log_sum, product);
        store_pairs(pairs_across(first.ds, second.ds, native), ds_right + i / 2 * kQueries + c, Whole());
        const Values first2 = values(i, c2, log_sum2, product2),
                     second2 = values(i + 1, c2, log_sum2, product2);
        store_pairs(pairs_across(first2.ds, second2.ds, native), ds_right + i / 2 * kQueries + c2, Whole());
        const int64_t row = (i * kQueries + c) / 2, row2 = row + kQueries / 2;
        store_pairs(pairs_along(first.p, first2.p, native), p + row, Whole());
        store_pairs(pairs_along(first.ds, first2.ds, native), ds + row, Whole());
        store_pairs(pairs_along(second.p, second2.p, native), p + row2, Whole());
        store_pairs(pairs_along(second.ds, second2.ds, native), ds + row2, Whole());
      }
    }
    return {{p, kQueries / 2, 1}, {ds, kQueries / 2, 1}, {ds_right, kQueries}};
  }
}

template <bool kBf16>
struct PreparedKeys {
  using Left = typename Operands<kBf16>::Left;
  KeyTile tile;
  Left k, v, k_turned;
  float *dk, *dv;
};

HWY_INLINE void copy_rows(const Matrix& from, const Matrix& to) {
  for (int64_t r = 0; r < from.rows; ++r) std::copy_n(f32_row(from, r), from.cols, f32_row(to, r));
}

// begins: whether dk and dv begin here, or go on from what is there.
template <bool kBf16>
HWY_INLINE PreparedKeys<kBf16> prepare_keys(const HeadTask& task, const BackwardLayout<kBf16>& at,
                                            const KeyTile& tile, bool begins, float* scratch) {
  using Side = Operands<kBf16>;
  const int64_t size = task.head_dim, computed = Side::computed(tile.count);
  float *const dk = scratch + at.dk, *const dv = scratch + at.dv;
  if (begins) {
    std::fill_n(dk, computed * size, 0.0f);
    std::fill_n(dv, computed * size, 0.0f);
  } else {
    copy_rows(tile.dk, matrix_at(dk, tile.count, size, size));
    copy_rows(tile.dv, matrix_at(dv, tile.count, size, size));
  }
  return {tile,
          Side::left(tile.k, scratch + at.k),
          Side::left(tile.v, scratch + at.v),
          Side::left_transposed(tile.k, computed, scratch + at.k_turned),
          dk,
          dv};
}

// Queries and keys of which all, some or none see each other.
template <bool kBf16>
HWY_INLINE void meet_as_one(const HeadTask& task, const PreparedKeys<kBf16>& keys,
                            const PreparedQueries<kBf16>& queries, const BackwardLayout<kBf16>& at,
                            float* scratch) {
  using Side = Operands<kBf16>;
  const int64_t size = task.head_dim, rows = queries.rows, width = queries.width;
  const int64_t visible = task.visible(keys.tile, queries.first, rows);
  if (visible == 0) return;
  const int64_t computed = Side::computed(visible);
  Side::multiply(computed, width, size, keys.k, queries.q_turned, scratch + at.scores, kQueries);
  Side::multiply(computed, width, size, keys.v, queries.dout_turned, scratch + at.dp, kQueries);
  const bool masked = rows < width || !task.all_seen(keys.tile, computed, queries.first, rows);
  const Gradients<kBf16> of =
      masked ? gradient_tile<kBf16, true>(task, keys.tile, queries, computed, at, scratch)
             : gradient_tile<kBf16, false>(task, keys.tile, queries, computed, at, scratch);
  Side::multiply_add(computed, size, rows, of.p, queries.dout, keys.dv, size);
  Side::multiply_add(computed, size, rows, of.ds, queries.q, keys.dk, size);
  Side::multiply_add(size, width, computed, keys.k_turned, of.ds_right, queries.dq, kQueries);
}

// Where not all is seen, in parts, of which some may see nothing or less.
template <bool kBf16>
HWY_INLINE void meet(const HeadTask& task, const PreparedKeys<kBf16>& keys,
                     const PreparedQueries<kBf16>& queries, const BackwardLayout<kBf16>& at, float* scratch) {
  if (task.all_seen(keys.tile, keys.tile.count, queries.first, queries.rows))
    return meet_as_one(task, keys, queries, at, scratch);
  for (int64_t i = 0; i < queries.rows; i += kWhole)
    meet_as_one(task, keys, part_of(queries, i), at, scratch);
}

// All queries of all heads that share a key head, as many tiles of them at a time as the scratch holds, and
// for these tile after tile of keys: dk and dv of a tile are summed over heads and queries in order.
template <bool kBf16>
HWY_INLINE void attend_backward(const HeadTask& task, float* scratch) {
  const BackwardLayout<kBf16> at(task);
  const int64_t size = task.head_dim;
  for (int64_t first = 0; first == 0 || first < task.query_tiles(); first += at.tiles) {
    std::array<PreparedQueries<kBf16>, kPreparedTiles> queries;
    const int64_t count = std::min(at.tiles, task.query_tiles() - first);
    for (int64_t i = 0; i < count; ++i)
      queries[size_t(i)] =
          prepare_queries<kBf16>(task, at, first + i, scratch + at.queries + i * at.query_floats);
    for (int64_t t = 0; t < task.tiles(); ++t) {
      const KeyTile tile = task.tile(t);
      const bool met = std::any_of(
          queries.begin(), queries.begin() + count,
          [&](const PreparedQueries<kBf16>& of) { return task.visible(tile, of.first, of.rows) > 0; });
      if (first > 0 && !met) continue;
      const PreparedKeys<kBf16> keys = prepare_keys(task, at, tile, first == 0, scratch);
      for (int64_t i = 0; i < count; ++i) meet<kBf16>(task, keys, queries[size_t(i)], at, scratch);
      copy_rows(matrix_at(keys.dk, tile.count, size, size), tile.dk);
      copy_rows(matrix_at(keys.dv, tile.count, size, size), tile.dv);
    }
    for (int64_t i = 0; i < count; ++i) {
      const PreparedQueries<kBf16>& from = queries[size_t(i)];
      transpose_into(from.dq, size, from.rows, kQueries,
                     f32_row(task.dq, from.first) + task.column(from.head), task.dq.stride);
    }
  }
}

void attention_backward_head(const HeadTask& task, float* scratch) {
  task.bf16 ? attend_backward<true>(task, scratch) : attend_backward<false>(task, scratch);
}

int64_t attention_backward_floats(const HeadTask& task) {
  return task.bf16 ? BackwardLayout<true>(task).size() : BackwardLayout<false>(task).size();
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "common/base/check.h"

namespace coppice {
namespace {

HWY_EXPORT(attention_backward_head);
HWY_EXPORT(attention_backward_floats);

}  // namespace

// What a prefix receives from an item is summed within the item, then added in the order of the items.
void CpuBackend::attention_backward(const AttentionShape& shape, std::span<const AttentionBackwardItem> items,
                                    DType compute) {
  CHECK(!unsupported(compute));
  std::vector<HeadTask> tasks;
  tasks.reserve(items.size() * size_t(shape.kv_heads));
  std::vector<Buffer> prefix_gradients;
  std::vector<UnaryItem> additions;
  for (const AttentionBackwardItem& item : items) {
    const AttentionItem& forward = item.forward;
    CHECK(forward.k.rows == forward.q.rows && !forward.log_sum.empty());
    CHECK(item.dout.rows == forward.q.rows && item.dout.cols == forward.q.cols);
    CHECK(item.dq.rows == forward.q.rows && item.dk.rows == forward.k.rows && item.dv.rows == forward.v.rows);
    CHECK(item.dout.dtype == DType::kF32 || (item.dout.dtype == DType::kBF16 && compute == DType::kBF16));
    for (const Matrix& x : {item.dq, item.dk, item.dv}) CHECK(x.dtype == DType::kF32);
    CHECK(forward.prefix_k.empty() == item.dprefix_k.empty() &&
          forward.prefix_k.empty() == item.dprefix_v.empty());
    Matrix dprefix_k, dprefix_v;
    if (!forward.prefix_k.empty()) {
      const int64_t rows = forward.prefix_k.rows, cols = forward.prefix_k.cols;
      const Matrix both = prefix_gradients.emplace_back(allocate(size_t(2 * rows * cols) * sizeof(float)))
                              .matrix(2 * rows, cols);
      dprefix_k = both.row_range(0, rows);
      dprefix_v = both.row_range(rows, rows);
      additions.push_back({dprefix_k, item.dprefix_k});
      additions.push_back({dprefix_v, item.dprefix_v});
    }
    for (int64_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
      const int64_t column = kv_head * shape.head_dim;
      HeadTask task = head_task(shape, forward, kv_head, compute, {kKeys, kQueries});
      task.dout = item.dout;
      task.dq = item.dq;
      task.own.dk = item.dk.column_range(column, shape.head_dim);
      task.own.dv = item.dv.column_range(column, shape.head_dim);
      if (!dprefix_k.empty()) {
        task.prefix.dk = dprefix_k.column_range(column, shape.head_dim);
        task.prefix.dv = dprefix_v.column_range(column, shape.head_dim);
      }
      tasks.push_back(task);
    }
  }
  run_attention(tasks, &HWY_DYNAMIC_DISPATCH(attention_backward_floats),
                &HWY_DYNAMIC_DISPATCH(attention_backward_head));
  add(additions);
}

}  // namespace coppice
#endif
