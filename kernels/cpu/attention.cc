// Causal softmax attention in tiles of queries and keys, and rotary position embedding. Nothing of the size
// queries x keys is held. The formulas are those of kernels/ref/attention.cc; the forward keeps for each
// query the largest score so far and the sum of exponentials relative to it (Milakov and Gimelshein, "Online
// normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022).
//
// A query's result depends on its keys alone: tiles of keys stand at fixed multiples from the first prefix
// row and from the first own row, a product's elements do not know their tile (gemm-inl.h), and a masked key
// adds an exact zero. So the forward may be cut anywhere between queries; the backward, which sums over
// queries, is one task a key head.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include <hwy/foreach_target.h>

#include <cmath>

#include "kernels/cpu/bf16_gemm.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/gemm-inl.h"

#ifndef COPPICE_KERNELS_CPU_ATTENTION_ONCE
#define COPPICE_KERNELS_CPU_ATTENTION_ONCE
namespace coppice {
namespace {

constexpr int64_t kKeys = 64;  // of a tile
constexpr int64_t kQueries =
    32;  // of a tile: half as many, for less that is computed and masked on the diagonal

// Up to kKeys keys and values of one head; the first key's number.
struct KeyTile {
  const float *k, *v;
  int64_t k_stride, v_stride;
  int64_t first, count;
  float *dk, *dv;  // backward: where their gradients go, written not added
  int64_t dk_stride, dv_stride;
};

// The part of an operand that belongs to one key head, in the way of KeyTile.
struct KeyRows {
  Matrix k, v, dk, dv;

  int64_t tiles() const { return k.empty() ? 0 : (k.rows + kKeys - 1) / kKeys; }
  KeyTile tile(int64_t i, int64_t first_number) const {
    const int64_t row = i * kKeys, count = std::min(kKeys, k.rows - row);
    KeyTile tile = {f32_row(k, row), f32_row(v, row), k.stride, v.stride, first_number + row,
                    count,           nullptr,         nullptr,  0,        0};
    if (!dk.empty()) {
      tile.dk = f32_row(dk, row), tile.dv = f32_row(dv, row);
      tile.dk_stride = dk.stride, tile.dv_stride = dv.stride;
    }
    return tile;
  }
};

// One key head of one item.
struct HeadTask {
  const AttentionItem* item = nullptr;
  KeyRows prefix, own;
  int64_t kv_head = 0, group = 0, head_dim = 0;
  int64_t begin = 0, end = 0;  // queries
  float scale = 0;
  bool bf16 = false;
  Matrix dout, dq;  // backward, whole

  int64_t prefix_rows() const { return prefix.k.empty() ? 0 : prefix.k.rows; }
  int64_t number_of(int64_t query) const { return prefix_rows() + own.k.rows - item->q.rows + query; }
  int64_t tiles() const { return prefix.tiles() + own.tiles(); }
  KeyTile tile(int64_t i) const {
    return i < prefix.tiles() ? prefix.tile(i, 0) : own.tile(i - prefix.tiles(), prefix_rows());
  }
  // How many keys of a tile the queries [first, first + count) can see at most.
  int64_t visible(const KeyTile& tile, int64_t first, int64_t count) const {
    if (item->window > 0 && tile.first + tile.count <= number_of(first) - item->window + 1) return 0;
    return std::clamp<int64_t>(number_of(first + count - 1) - tile.first + 1, 0, tile.count);
  }
  int64_t column(int64_t head) const { return (kv_head * group + head) * head_dim; }
};

}  // namespace
}  // namespace coppice
#endif

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

constexpr int kScoreVectors = int(kKeys / kLanes);

// Which keys of a tile a query sees: columns [low, high) of its row of scores.
struct Sight {
  Vec low, high;
};
HWY_INLINE Sight sight_of(const HeadTask& task, const KeyTile& tile, int64_t query) {
  const int64_t number = task.number_of(query), window = task.item->window;
  const int64_t low = window > 0 ? number - window + 1 - tile.first : 0;
  return {set(float(std::max<int64_t>(0, low))), set(float(std::min(tile.count, number - tile.first + 1)))};
}
HWY_INLINE auto seen(const Sight& sight, int v) {
  const Vec column = hn::Iota(Floats(), float(v * kLanes));
  return hn::And(hn::Ge(column, sight.low), hn::Lt(column, sight.high));
}

// The operands of a tile's products, prepared once for all queries that meet it, and the products themselves:
// in float32 where they stand or transposed, in bfloat16 as packed pairs. An element of a product is one
// chain in either.
template <bool kBf16>
struct Operands;

template <>
struct Operands<false> {
  // Floats of scratch for a tile of `rows` rows.
  static int64_t floats(int64_t rows, int64_t size) { return rows * size; }

  // x [rows, size] as the right side of q x': its transpose, [size, kKeys].
  struct Transposed {
    const float* data;
  };
  static HWY_INLINE Transposed transposed(const float* x, int64_t rows, int64_t size, int64_t stride,
                                          float* to) {
    transpose_into(x, rows, size, stride, to, kKeys);
    return {to};
  }
  // x [rows, size] as the right side of p x.
  struct Across {
    const float* data;
    int64_t stride;
  };
  static HWY_INLINE Across across(const float* x, int64_t, int64_t, int64_t stride, float*) {
    return {x, stride};
  }
  // x [rows, depth] as a left side.
  using Left = LeftOperand;
  static HWY_INLINE Left left(const float* x, int64_t, int64_t, int64_t stride, float*) {
    return {x, stride, 1};
  }
  // The transpose of x [rows, depth] as a left side.
  static HWY_INLINE Left left_transposed(const float* x, int64_t, int64_t, int64_t stride, float*) {
    return {x, 1, stride};
  }

  static HWY_INLINE void scores(int64_t rows, int64_t keys, int64_t size, Left q, Transposed k, float* to) {
    multiply(rows, keys, size, q, k.data, kKeys, to, kKeys, 1, Store::kOverwrite);
  }
  static HWY_INLINE void add(int64_t rows, int64_t size, int64_t depth, Left p, Across x, float* to,
                             int64_t stride) {
    multiply(rows, size, depth, p, x.data, x.stride, to, stride, 1, Store::kAccumulate);
  }
};

template <>
struct Operands<true> {
  static int64_t floats(int64_t rows, int64_t size) {
    return std::max(rows * pairs_of(size), pairs_of(rows) * size);
  }

  struct Transposed {
    const Pair* data;
  };
  static HWY_INLINE Transposed transposed(const float* x, int64_t rows, int64_t size, int64_t stride,
                                          float* to) {
    Pair* const pairs = reinterpret_cast<Pair*>(to);
    pack_pairs_transposed(x, rows, size, stride, pairs, kKeys);
    return {pairs};
  }
  struct Across {
    const Pair* data;
    int64_t stride;
  };
  static HWY_INLINE Across across(const float* x, int64_t rows, int64_t size, int64_t stride, float* to) {
    Pair* const pairs = reinterpret_cast<Pair*>(to);
    pack_pairs_across(x, rows, size, stride, pairs, size);
    return {pairs, size};
  }
  using Left = PairsOfRows;
  static HWY_INLINE Left left(const float* x, int64_t rows, int64_t depth, int64_t stride, float* to) {
    Pair* const pairs = reinterpret_cast<Pair*>(to);
    pack_pairs_along(x, rows, depth, stride, pairs, pairs_of(depth));
    return {pairs, pairs_of(depth), 1};
  }
  static HWY_INLINE Left left_transposed(const float* x, int64_t rows, int64_t depth, int64_t stride,
                                         float* to) {
    Pair* const pairs = reinterpret_cast<Pair*>(to);
    pack_pairs_across(x, rows, depth, stride, pairs, depth);
    return {pairs, 1, depth};
  }

  static HWY_INLINE void scores(int64_t rows, int64_t keys, int64_t size, Left q, Transposed k, float* to) {
    multiply_pairs(rows, keys, pairs_of(size), q, k.data, kKeys, to, kKeys, 1, PairStore::kOverwrite);
  }
  static HWY_INLINE void add(int64_t rows, int64_t size, int64_t depth, Left p, Across x, float* to,
                             int64_t stride) {
    multiply_pairs(rows, size, pairs_of(depth), p, x.data, x.stride, to, stride, 1, PairStore::kAccumulate);
  }
};

// Whether each of these queries sees each of a tile's keys, so that nothing need be masked.
HWY_INLINE bool all_seen(const HeadTask& task, const KeyTile& tile, int64_t query, int64_t rows) {
  const int64_t window = task.item->window;
  return tile.count == kKeys && tile.first + kKeys - 1 <= task.number_of(query) &&
         (window == 0 || tile.first > task.number_of(query + rows - 1) - window);
}

// A row of scores becomes exponentials relative to the largest score so far, which is returned; keys that are
// not seen become 0. sum: of the row.
template <bool kMasked>
HWY_INLINE float softmax_row(const HeadTask& task, const KeyTile& tile, int64_t query, float* row,
                             float largest, float& sum) {
  const float infinity = std::numeric_limits<float>::infinity();
  Vec scores[kScoreVectors], most = set(-infinity);
  const Sight sight = sight_of(task, tile, query);
  for (int v = 0; v < kScoreVectors; ++v) {
    scores[v] = hn::Mul(hn::Load(Floats(), row + v * kLanes), set(task.scale));
    if constexpr (kMasked) scores[v] = hn::IfThenElse(seen(sight, v), scores[v], set(-infinity));
    most = hn::Max(most, scores[v]);
  }
  const float now = std::max(largest, max_of(most));
  const Vec base = set(now == -infinity ? 0 : now);
  Vec total = set(0);
  for (int v = 0; v < kScoreVectors; ++v) {
    const Vec p = exp_of_difference(hn::Sub(scores[v], base));
    total = hn::Add(total, p);
    hn::Store(p, Floats(), row + v * kLanes);
  }
  sum = sum_of(total);
  return now;
}

// Softmax of a tile of scores [rows, kKeys]; `out` and `sums` are scaled down to match where the largest
// score grew.
HWY_INLINE void softmax_tile(const HeadTask& task, const KeyTile& tile, int64_t query, int64_t rows,
                             float* scores, float* largest, float* sums, float* out, int64_t out_stride) {
  HWY_ALIGN float shrink[kQueries];
  HWY_ALIGN float added[kQueries];
  const bool masked = !all_seen(task, tile, query, rows);
  for (int64_t i = 0; i < rows; ++i) {
    float* const row = scores + i * kKeys;
    const float now = masked ? softmax_row<true>(task, tile, query + i, row, largest[i], added[i])
                             : softmax_row<false>(task, tile, query + i, row, largest[i], added[i]);
    shrink[i] = now == largest[i] ? 0 : largest[i] - now;  // equal also where no key was seen yet
    largest[i] = now;
  }
  for_columns(rows, [&](int64_t i, auto part) HWY_ATTR {
    const Vec factor = exp(load(shrink + i, part));
    store(factor, shrink + i, part);
    store(hn::MulAdd(load(sums + i, part), factor, load(added + i, part)), sums + i, part);
  });
  for (int64_t i = 0; i < rows; ++i) {
    if (shrink[i] == 1) continue;
    float* const to = out + i * out_stride;
    for_columns(task.head_dim, [=](int64_t c, auto part) HWY_ATTR {
      store(hn::Mul(load(to + c, part), set(shrink[i])), to + c, part);
    });
  }
}

// Queries [task.begin, task.end) of all heads that share a key head. Keys on the outside: a tile of them is
// transposed once for all queries; the sums grow in `out` itself.
template <bool kBf16>
HWY_INLINE void attend(const HeadTask& task, float* scratch) {
  using Side = Operands<kBf16>;
  const AttentionItem& item = *task.item;
  const int64_t size = task.head_dim, queries = task.end - task.begin;
  float* const keys = scratch;
  float* const scores = keys + size * kKeys;
  float* const v_packed = scores + kQueries * kKeys;
  float* const q_packed = v_packed + Side::floats(kKeys, size);
  float* const p_packed = q_packed + Side::floats(kQueries, size);
  float* const largest = p_packed + Side::floats(kQueries, kKeys);
  float* const sums = largest + task.group * queries;
  std::fill_n(largest, task.group * queries, -std::numeric_limits<float>::infinity());
  std::fill_n(sums, task.group * queries, 0.0f);
  for (int64_t query = task.begin; query < task.end; ++query) {
    std::fill_n(f32_row(item.out, query) + task.column(0), task.group * size, 0.0f);
  }
  for (int64_t t = 0; t < task.tiles(); ++t) {
    const KeyTile tile = task.tile(t);
    if (task.visible(tile, task.begin, queries) == 0) continue;
    const auto transposed = Side::transposed(tile.k, tile.count, size, tile.k_stride, keys);
    const auto values = Side::across(tile.v, tile.count, size, tile.v_stride, v_packed);
    for (int64_t head = 0; head < task.group; ++head) {
      for (int64_t query = task.begin; query < task.end; query += kQueries) {
        const int64_t rows = std::min(kQueries, task.end - query), visible = task.visible(tile, query, rows);
        if (visible == 0) continue;
        const int64_t state = head * queries + query - task.begin;
        const auto q =
            Side::left(f32_row(item.q, query) + task.column(head), rows, size, item.q.stride, q_packed);
        float* const out = f32_row(item.out, query) + task.column(head);
        Side::scores(rows, visible, size, q, transposed, scores);
        softmax_tile(task, tile, query, rows, scores, largest + state, sums + state, out, item.out.stride);
        const auto p = Side::left(scores, rows, visible, kKeys, p_packed);
        Side::add(rows, size, visible, p, values, out, item.out.stride);
      }
    }
  }
  for (int64_t head = 0; head < task.group; ++head) {
    for (int64_t i = 0; i < queries; ++i) {
      const float sum = sums[head * queries + i], factor = 1 / sum;
      float* const out = f32_row(item.out, task.begin + i) + task.column(head);
      for_columns(size, [=](int64_t c, auto part)
                            HWY_ATTR { store(hn::Mul(load(out + c, part), set(factor)), out + c, part); });
      if (item.log_sum.empty()) continue;
      f32_row(item.log_sum, task.begin + i)[task.kv_head * task.group + head] =
          float(double(largest[head * queries + i]) + std::log(double(sum)));
    }
  }
}

void attention_head(const HeadTask& task, float* scratch) {
  task.bf16 ? attend<true>(task, scratch) : attend<false>(task, scratch);
}

int64_t attention_floats(int64_t head_dim, int64_t group, int64_t queries) {
  return head_dim * (2 * kKeys + kQueries + 1) + 2 * kQueries * kKeys + 2 * group * queries + kKeys;
}

// One row of scores and of dout v^T: p, and ds = scale * p * (dp - dout . out). Not seen: 0.
template <bool kMasked>
HWY_INLINE void gradient_row(const HeadTask& task, const Sight& sight, float log_sum, float product,
                             float* scores, float* dp) {
  for (int v = 0; v < kScoreVectors; ++v) {
    float *const s = scores + v * kLanes, *const d = dp + v * kLanes;
    Vec p = exp_of_difference(hn::Sub(hn::Mul(hn::Load(Floats(), s), set(task.scale)), set(log_sum)));
    Vec ds = hn::Mul(hn::Mul(set(task.scale), p), hn::Sub(hn::Load(Floats(), d), set(product)));
    if constexpr (kMasked) {
      const auto mask = seen(sight, v);
      p = hn::IfThenElseZero(mask, p), ds = hn::IfThenElseZero(mask, ds);
    }
    hn::Store(p, Floats(), s);
    hn::Store(ds, Floats(), d);
  }
}

HWY_INLINE void gradient_tile(const HeadTask& task, const KeyTile& tile, int64_t query, int64_t rows,
                              int64_t head, const float* products, float* scores, float* dp) {
  const bool masked = !all_seen(task, tile, query, rows);
  for (int64_t i = 0; i < rows; ++i) {
    const Sight sight = sight_of(task, tile, query + i);
    const float log_sum = f32_row(task.item->log_sum, query + i)[task.kv_head * task.group + head];
    if (masked) {
      gradient_row<true>(task, sight, log_sum, products[i], scores + i * kKeys, dp + i * kKeys);
    } else {
      gradient_row<false>(task, sight, log_sum, products[i], scores + i * kKeys, dp + i * kKeys);
    }
  }
}

// All queries of all heads that share a key head, for tile after tile of keys: dk and dv of a tile are summed
// over heads and queries in order and written once, dq grows in place over the tiles.
template <bool kBf16>
HWY_INLINE void attend_backward(const HeadTask& task, float* scratch) {
  using Side = Operands<kBf16>;
  const AttentionItem& item = *task.item;
  const int64_t size = task.head_dim, queries = task.end;
  float* const keys = scratch;
  float* const values = keys + size * kKeys;
  float* const k_packed = values + size * kKeys;
  float* const dk = k_packed + Side::floats(kKeys, size);
  float* const dv = dk + kKeys * size;
  float* const q_left = dv + kKeys * size;
  float* const q_right = q_left + Side::floats(kQueries, size);
  float* const g_left = q_right + Side::floats(kQueries, size);
  float* const g_right = g_left + Side::floats(kQueries, size);
  float* const p_packed = g_right + Side::floats(kQueries, size);
  float* const scores = p_packed + Side::floats(kQueries, kKeys);
  float* const dp = scores + kQueries * kKeys;
  float* const products = dp + kQueries * kKeys;  // dout . out
  for (int64_t head = 0; head < task.group; ++head) {
    for (int64_t query = 0; query < queries; ++query) {
      const float *const g = f32_row(task.dout, query) + task.column(head), *const out =
                                                                                f32_row(item.out, query) +
                                                                                task.column(head);
      products[head * queries + query] = sum_columns(size, [=](int64_t c, auto part) HWY_ATTR {
        return hn::Mul(load(g + c, part), load(out + c, part));
      });
      std::fill_n(f32_row(task.dq, query) + task.column(head), size, 0.0f);
    }
  }
  for (int64_t t = 0; t < task.tiles(); ++t) {
    const KeyTile tile = task.tile(t);
    std::fill_n(dk, kKeys * size, 0.0f);
    std::fill_n(dv, kKeys * size, 0.0f);
    const auto k_transposed = Side::transposed(tile.k, tile.count, size, tile.k_stride, keys);
    const auto v_transposed = Side::transposed(tile.v, tile.count, size, tile.v_stride, values);
    const auto k = Side::across(tile.k, tile.count, size, tile.k_stride, k_packed);
    for (int64_t head = 0; head < task.group; ++head) {
      for (int64_t query = 0; query < queries; query += kQueries) {
        const int64_t rows = std::min(kQueries, queries - query), visible = task.visible(tile, query, rows);
        if (visible == 0) continue;
        const int64_t column = task.column(head);
        const float *const q = f32_row(item.q, query) + column, *const g = f32_row(task.dout, query) + column;
        const int64_t q_stride = item.q.stride, g_stride = task.dout.stride;
        Side::scores(rows, visible, size, Side::left(q, rows, size, q_stride, q_left), k_transposed, scores);
        Side::scores(rows, visible, size, Side::left(g, rows, size, g_stride, g_left), v_transposed, dp);
        gradient_tile(task, tile, query, rows, head, products + head * queries + query, scores, dp);
        Side::add(visible, size, rows, Side::left_transposed(scores, rows, visible, kKeys, p_packed),
                  Side::across(g, rows, size, g_stride, g_right), dv, size);
        Side::add(visible, size, rows, Side::left_transposed(dp, rows, visible, kKeys, p_packed),
                  Side::across(q, rows, size, q_stride, q_right), dk, size);
        Side::add(rows, size, visible, Side::left(dp, rows, visible, kKeys, p_packed), k,
                  f32_row(task.dq, query) + column, task.dq.stride);
      }
    }
    for (int64_t r = 0; r < tile.count; ++r) {
      std::copy_n(dk + r * size, size, tile.dk + r * tile.dk_stride);
      std::copy_n(dv + r * size, size, tile.dv + r * tile.dv_stride);
    }
  }
}

void attention_backward_head(const HeadTask& task, float* scratch) {
  task.bf16 ? attend_backward<true>(task, scratch) : attend_backward<false>(task, scratch);
}

int64_t attention_backward_floats(int64_t head_dim, int64_t group, int64_t queries) {
  return (head_dim + 1) * (5 * kKeys + 4 * kQueries) + 3 * kQueries * kKeys + group * queries;
}

void rotate_rows(Matrix x, Matrix cos, Matrix sin, int64_t head_dim, bool transposed, int64_t begin,
                 int64_t end) {
  const int64_t half = head_dim / 2;
  for (int64_t r = begin; r < end; ++r) {
    const float *const c_row = f32_row(cos, r), *const s_row = f32_row(sin, r);
    for (float* head = f32_row(x, r); head < f32_row(x, r) + x.cols; head += head_dim) {
      for_columns(half, [=](int64_t i, auto part) HWY_ATTR {
        const Vec x1 = load(head + i, part), x2 = load(head + half + i, part), c = load(c_row + i, part);
        const Vec s = transposed ? hn::Neg(load(s_row + i, part)) : load(s_row + i, part);
        store(hn::Sub(hn::Mul(x1, c), hn::Mul(x2, s)), head + i, part);
        store(hn::Add(hn::Mul(x2, c), hn::Mul(x1, s)), head + half + i, part);
      });
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "common/base/check.h"

namespace coppice {
namespace {

HWY_EXPORT(attention_head);
HWY_EXPORT(attention_floats);
HWY_EXPORT(attention_backward_head);
HWY_EXPORT(attention_backward_floats);
HWY_EXPORT(rotate_rows);

constexpr int64_t kChunk = 512;  // queries of a task of the forward

void check_item(const AttentionShape& shape, const AttentionItem& item) {
  const int64_t keys = int64_t(shape.kv_heads) * shape.head_dim;
  CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0);
  CHECK(item.q.cols == int64_t(shape.heads) * shape.head_dim && item.k.cols == keys && item.v.cols == keys);
  CHECK(item.v.rows == item.k.rows && item.k.rows >= item.q.rows);
  CHECK(item.prefix_k.empty() == item.prefix_v.empty() && item.prefix_k.rows == item.prefix_v.rows);
  CHECK(item.prefix_k.empty() || (item.prefix_k.cols == keys && item.prefix_v.cols == keys));
  CHECK(item.out.rows == item.q.rows && item.out.cols == item.q.cols);
  CHECK(item.log_sum.empty() || (item.log_sum.rows == item.q.rows && item.log_sum.cols == shape.heads));
}

HeadTask head_task(const AttentionShape& shape, const AttentionItem& item, int64_t kv_head, DType compute) {
  const auto part = [&](const Matrix& x) {
    return x.empty() ? Matrix() : x.column_range(kv_head * shape.head_dim, shape.head_dim);
  };
  HeadTask task;
  task.item = &item;
  task.prefix = {part(item.prefix_k), part(item.prefix_v), {}, {}};
  task.own = {part(item.k), part(item.v), {}, {}};
  task.kv_head = kv_head;
  task.group = shape.heads / shape.kv_heads;
  task.head_dim = shape.head_dim;
  task.end = item.q.rows;
  task.scale = shape.scale;
  task.bf16 = compute == DType::kBF16;
  return task;
}

}  // namespace

void CpuBackend::attention(const AttentionShape& shape, std::span<const AttentionItem> items, DType compute) {
  CHECK(!unsupported(compute));
  std::vector<HeadTask> tasks;
  tasks.reserve(items.size() * size_t(shape.kv_heads));
  int64_t most_queries = 0;
  for (const AttentionItem& item : items) {
    check_item(shape, item);
    for (int64_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
      for (int64_t begin = 0; begin < item.q.rows; begin += kChunk) {
        HeadTask task = head_task(shape, item, kv_head, compute);
        task.begin = begin;
        task.end = std::min(item.q.rows, begin + kChunk);
        most_queries = std::max(most_queries, task.end - task.begin);
        tasks.push_back(task);
      }
    }
  }
  const int64_t floats =
      HWY_DYNAMIC_DISPATCH(attention_floats)(shape.head_dim, shape.heads / shape.kv_heads, most_queries) + 15;
  const Buffer scratch = allocate(size_t((floats / 16 * 16) * pool().threads()) * sizeof(float));
  pool().parallel_for(int64_t(tasks.size()), [&](int64_t i, int worker) {
    float* const own = reinterpret_cast<float*>(scratch.data()) + floats / 16 * 16 * worker;
    HWY_DYNAMIC_DISPATCH(attention_head)(tasks[size_t(i)], own);
  });
}

// What a prefix receives from an item is summed within the item, then added in the order of the items.
void CpuBackend::attention_backward(const AttentionShape& shape, std::span<const AttentionBackwardItem> items,
                                    DType compute) {
  CHECK(!unsupported(compute));
  std::vector<HeadTask> tasks;
  tasks.reserve(items.size() * size_t(shape.kv_heads));
  std::vector<Buffer> prefix_gradients;
  std::vector<UnaryItem> additions;
  int64_t most_queries = 0;
  for (const AttentionBackwardItem& item : items) {
    const AttentionItem& forward = item.forward;
    check_item(shape, forward);
    CHECK(forward.k.rows == forward.q.rows && !forward.log_sum.empty());
    CHECK(item.dout.rows == forward.q.rows && item.dout.cols == forward.q.cols);
    CHECK(item.dq.rows == forward.q.rows && item.dk.rows == forward.k.rows && item.dv.rows == forward.v.rows);
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
      HeadTask task = head_task(shape, forward, kv_head, compute);
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
    most_queries = std::max(most_queries, forward.q.rows);
  }
  const int64_t floats = HWY_DYNAMIC_DISPATCH(attention_backward_floats)(
                             shape.head_dim, shape.heads / shape.kv_heads, most_queries) +
                         15;
  const Buffer scratch = allocate(size_t((floats / 16 * 16) * pool().threads()) * sizeof(float));
  pool().parallel_for(int64_t(tasks.size()), [&](int64_t i, int worker) {
    float* const own = reinterpret_cast<float*>(scratch.data()) + floats / 16 * 16 * worker;
    HWY_DYNAMIC_DISPATCH(attention_backward_head)(tasks[size_t(i)], own);
  });
  add(additions);
}

void CpuBackend::rotary(Matrix x, Matrix cos, Matrix sin, int head_dim, bool transposed) {
  CHECK(head_dim > 0 && head_dim % 2 == 0 && x.cols % head_dim == 0);
  CHECK(cos.rows == x.rows && sin.rows == x.rows && cos.cols == head_dim / 2 && sin.cols == head_dim / 2);
  for_rows(x.rows, x.cols, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(rotate_rows)(x, cos, sin, head_dim, transposed, begin, end);
  });
}

}  // namespace coppice
#endif
