// Causal softmax attention in tiles of queries and keys: the forward, and rotary position embedding. Nothing
// of the size queries x keys is held. The formulas are those of kernels/ref/attention.cc; the forward keeps
// for each query a base, near the largest score so far, and the sum of exponentials relative to it (Milakov
// and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022).
//
// A query's result depends on its keys alone: tiles of keys stand at fixed multiples from the first prefix
// row and from the first own row, a product's elements do not know their tile (gemm-inl.h), and a masked key
// adds an exact zero. So the forward may be cut anywhere between queries.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include <hwy/foreach_target.h>

#include <array>
#include <cmath>
#include <vector>

#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/pairs-inl.h"

#ifndef COPPICE_KERNELS_CPU_ATTENTION_ONCE
#define COPPICE_KERNELS_CPU_ATTENTION_ONCE
namespace coppice {
namespace {

constexpr int64_t kChunk = 512;  // queries of a task
// Of a tile. Few queries, for less that is computed and masked beside the diagonal.
constexpr int64_t kKeys = 128, kQueries = 32;
// Tiles of keys that are prepared at a time, and floats for them.
constexpr int64_t kPreparedTiles = 32, kPreparedFloats = 256 * 1024 / 4;
// Scores are relative to a base that moves only when one is 2^kHeadroom times as large: what was summed is
// then scaled down, which is seldom.
constexpr float kHeadroom = 8;

}  // namespace
}  // namespace coppice
#endif

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

template <bool kBf16>
struct ForwardLayout : ScratchLayout {
  using Side = Operands<kBf16>;
  const int64_t key_floats, value_floats, tiles;
  const int64_t keys, values, q, scores, p, totals, out, bases, sums, unfinished;

  explicit ForwardLayout(const HeadTask& task)
      : key_floats(round_up(Side::floats_right(kKeys, task.head_dim), 16)),
        value_floats(round_up(Side::floats_right(kKeys, task.head_dim), 16)),
        tiles(task.query_tiles_of_head() == 1  // of decoding: while a tile is in the first-level cache
                  ? 1
                  : std::max<int64_t>(1, std::min({kPreparedFloats / (key_floats + value_floats),
                                                   task.tiles(), kPreparedTiles}))),
        keys(take(tiles * key_floats)),
        values(take(tiles * value_floats)),
        q(take(Side::floats_left(kQueries, task.head_dim))),
        scores(take(kQueries * kKeys)),
        p(take(Side::floats_left(kQueries, kKeys))),
        totals(take(kQueries * kLanes)),
        out(take(kQueries * task.head_dim)),
        bases(take(task.query_tiles() * kQueries)),
        sums(take(task.query_tiles() * kQueries)),
        unfinished(take(task.tiles() > tiles ? task.query_tiles() * kQueries * task.head_dim : 0)) {}
};

// Queries of one head that are computed together, and what they have so far. scores and totals are scratch.
// bases and sums have room for kQueries, so that vectors may be whole. unfinished: where `out` stands while
// there are keys to come.
struct QueryTile {
  int64_t head, first, rows;
  float *scores, *totals;
  float *out, *bases, *sums, *unfinished;
};

// What the queries do not see of their scores becomes -infinity.
HWY_INLINE void mask_scores(const HeadTask& task, const KeyTile& tile, const QueryTile& queries,
                            int64_t width) {
  const Vec nothing = set(-std::numeric_limits<float>::infinity());
  const int64_t window = task.item->window;
  for (int64_t i = 0; i < queries.rows; ++i) {
    float* const row = queries.scores + i * kKeys;
    const int64_t number = task.number_of(queries.first + i) - tile.first;
    const int64_t low = window > 0 ? std::clamp<int64_t>(number - window + 1, 0, width) : 0;
    const int64_t high = std::clamp<int64_t>(number + 1, 0, std::min(tile.count, width));
    for_columns(low, [=](int64_t c, auto part) HWY_ATTR { store(nothing, row + c, part); });
    for_columns(width - high, [=](int64_t c, auto part) HWY_ATTR { store(nothing, row + high + c, part); });
  }
}

// Moves the bases of kLanes queries from the i-th on to where their largest scores want them, and scales
// down what was summed relative to the old ones. factor: from scores to powers of two.
HWY_INLINE void move_bases(const HeadTask& task, const QueryTile& queries, int64_t i, int64_t width,
                           float factor) {
  Vec most[kLanes];
  for (int64_t r = 0; r < kLanes; ++r) {
    most[r] = set(-std::numeric_limits<float>::infinity());
    const float* const row = queries.scores + (i + r) * kKeys;
    for (int64_t c = 0; i + r < queries.rows && c < width; c += kLanes)
      most[r] = hn::Max(most[r], hn::Load(Floats(), row + c));
  }
  const Vec largest = hn::Mul(max_of_each(most), set(factor));
  const Vec base = hn::Load(Floats(), queries.bases + i);
  const auto grown = hn::Gt(largest, hn::Add(base, set(kHeadroom)));  // a NaN moves nothing
  if (hn::AllFalse(Floats(), grown)) return;
  const Vec now = hn::IfThenElse(grown, largest, base);
  hn::Store(now, Floats(), queries.bases + i);
  const auto scaled = hn::And(grown, hn::Gt(base, set(-std::numeric_limits<float>::infinity())));
  if (hn::AllFalse(Floats(), scaled)) return;
  const Vec shrink = hn::IfThenElse(scaled, exp2_of_difference(hn::Sub(base, now)), set(1));
  hn::Store(hn::Mul(hn::Load(Floats(), queries.sums + i), shrink), Floats(), queries.sums + i);
  HWY_ALIGN float shrinks[kLanes];
  hn::Store(shrink, Floats(), shrinks);
  for (int64_t r = 0; r < std::min(kLanes, queries.rows - i); ++r) {
    if (shrinks[r] == 1) continue;
    float* const to = queries.out + (i + r) * task.head_dim;
    const Vec by = set(shrinks[r]);
    for_columns(task.head_dim,
                [=](int64_t c, auto part) HWY_ATTR { store(hn::Mul(load(to + c, part), by), to + c, part); });
  }
}

// Scores [rows, width] become exponentials relative to the bases, and are added to the sums. Returns them as
// the left side of a product: where the scores were, or packed.
template <bool kBf16>
HWY_INLINE typename Operands<kBf16>::Left softmax_tile(const HeadTask& task, const QueryTile& queries,
                                                       int64_t width, float* packed) {
  const float factor = task.scale * kLog2E;
  const bool native = has_bf16_products();
  Pair* const pairs = reinterpret_cast<Pair*>(packed);
  for (int64_t i = 0; i < queries.rows; i += kLanes) move_bases(task, queries, i, width, factor);
  for (int64_t i = 0; i < queries.rows; ++i) {
    float* const row = queries.scores + i * kKeys;
    const float own = queries.bases[i];
    const Vec base = set(own == -std::numeric_limits<float>::infinity() ? 0 : own);
    Vec total = set(0);
    // The product is rounded by itself, as the base was: else a huge score is not its own base.
    const auto exponential = [&](int64_t c) HWY_ATTR {
      const Vec p = exp2_of_difference(hn::Sub(hn::Mul(hn::Load(Floats(), row + c), set(factor)), base));
      total = hn::Add(total, p);
      return p;
    };
    if constexpr (kBf16) {
      static_assert(kWhole % (2 * kLanes) == 0);
      for (int64_t c = 0; c < width; c += 2 * kLanes) {
        const Vec low = exponential(c), high = exponential(c + kLanes);
        store_pairs(pairs_along(low, high, native), pairs + i * kKeys / 2 + c / 2, Whole());
      }
    } else {
      for (int64_t c = 0; c < width; c += kLanes) hn::Store(exponential(c), Floats(), row + c);
    }
    hn::Store(total, Floats(), queries.totals + i * kLanes);
  }
  for (int64_t i = 0; i < queries.rows; i += kLanes) {
    Vec totals[kLanes];
    for (int64_t r = 0; r < kLanes; ++r)
      totals[r] = i + r < queries.rows ? hn::Load(Floats(), queries.totals + (i + r) * kLanes) : set(0);
    float* const sums = queries.sums + i;
    hn::Store(hn::Add(hn::Load(Floats(), sums), sum_of_each(totals)), Floats(), sums);
  }
  if constexpr (kBf16) {
    return {pairs, kKeys / 2, 1};
  } else {
    return {queries.scores, kKeys, 1};
  }
}

template <typename Element>  // of item->out
HWY_INLINE void finish_rows(const HeadTask& task, const QueryTile& queries) {
  for (int64_t i = 0; i < queries.rows; ++i) {
    const Vec factor = set(1 / queries.sums[i]);
    const float* const from = queries.out + i * task.head_dim;
    Element* const out = row_of<Element>(task.item->out, queries.first + i) + task.column(queries.head);
    for_pieces(task.head_dim, [=](int64_t first, int64_t count) HWY_ATTR {
      Piece<Element> piece;
      float* const to = piece.of(out + first);
      for_columns(count, [=](int64_t c, auto part) HWY_ATTR {
        store(hn::Mul(load(from + first + c, part), factor), to + c, part);
      });
      piece.done(count, out + first);
    });
  }
}

// out and log_sum of queries that have seen their last key.
HWY_INLINE void finish(const HeadTask& task, const QueryTile& queries) {
  with_elements(task.item->out,
                [&](auto element) HWY_ATTR { finish_rows<decltype(element)>(task, queries); });
  if (task.item->log_sum.empty()) return;
  HWY_ALIGN float log_sums[kQueries];
  for (int64_t i = 0; i < kQueries; i += kLanes) {
    const Vec base = hn::Load(Floats(), queries.bases + i), sum = hn::Load(Floats(), queries.sums + i);
    hn::Store(hn::MulAdd(base, set(1 / kLog2E), log(sum)), Floats(), log_sums + i);
  }
  for (int64_t i = 0; i < queries.rows; ++i)
    f32_row(task.item->log_sum, queries.first + i)[task.head(queries.head)] = log_sums[i];
}

template <bool kBf16>
struct PreparedTile {
  KeyTile tile;
  typename Operands<kBf16>::Right keys, values;
};

// The queries meet a run of prepared tiles.
template <bool kBf16>
HWY_INLINE void meet(const HeadTask& task, const QueryTile& queries,
                     std::span<const PreparedTile<kBf16>> tiles, float* q_packed, float* p_packed) {
  using Side = Operands<kBf16>;
  const int64_t size = task.head_dim, rows = queries.rows;
  const auto q = Side::left(task.head_rows(task.item->q, queries.head, queries.first, rows), q_packed);
  for (const PreparedTile<kBf16>& at : tiles) {
    const int64_t visible = task.visible(at.tile, queries.first, rows);
    if (visible == 0) continue;
    const int64_t keys = Side::computed(visible), width = round_up(visible, kWhole);
    Side::multiply(rows, keys, size, q, at.keys, queries.scores, kKeys);
    if (!task.all_seen(at.tile, width, queries.first, rows)) mask_scores(task, at.tile, queries, width);
    const auto p = softmax_tile<kBf16>(task, queries, width, p_packed);
    Side::multiply_add(rows, size, keys, p, at.values, queries.out, size);
  }
}

// Queries [task.begin, task.end) of all heads that share a key head. As many tiles of keys as the scratch
// holds are prepared, then all queries meet them one after another.
template <bool kBf16>
HWY_INLINE void attend(const HeadTask& task, float* scratch) {
  using Side = Operands<kBf16>;
  const ForwardLayout<kBf16> at(task);
  const int64_t size = task.head_dim;
  int64_t seen = 0;  // keys
  for (int64_t first = 0; first < task.tiles(); first += at.tiles) {
    std::array<PreparedTile<kBf16>, kPreparedTiles> prepared;
    int64_t count = 0;
    const int64_t before = seen;
    for (int64_t t = first; t < std::min(task.tiles(), first + at.tiles); ++t) {
      const KeyTile tile = task.tile(t);
      seen = tile.first + tile.count;
      if (task.visible(tile, task.begin, task.end - task.begin) == 0) continue;
      prepared[size_t(count)] = {
          tile, Side::right_transposed(tile.k, kKeys, scratch + at.keys + count * at.key_floats),
          Side::right(tile.v, task.query_tiles(), scratch + at.values + count * at.value_floats)};
      ++count;
    }
    for (int64_t i = 0; i < task.query_tiles(); ++i) {
      const auto [head, query, rows] = task.query_tile(i);
      const QueryTile queries = {head,
                                 query,
                                 rows,
                                 scratch + at.scores,
                                 scratch + at.totals,
                                 scratch + at.out,
                                 scratch + at.bases + i * kQueries,
                                 scratch + at.sums + i * kQueries,
                                 scratch + at.unfinished + i * kQueries * size};
      const int64_t last = task.number_of(query + rows - 1);
      if (last < before) continue;
      if (first == 0) {
        std::fill_n(queries.out, kQueries * size, 0.0f);
        std::fill_n(queries.bases, kQueries, -std::numeric_limits<float>::infinity());
        std::fill_n(queries.sums, kQueries, 0.0f);
      } else {
        std::copy_n(queries.unfinished, rows * size, queries.out);
      }
      meet<kBf16>(task, queries, {prepared.data(), size_t(count)}, scratch + at.q, scratch + at.p);
      if (last < seen) {
        finish(task, queries);
      } else {
        std::copy_n(queries.out, rows * size, queries.unfinished);
      }
    }
  }
}

void attention_head(const HeadTask& task, float* scratch) {
  task.bf16 ? attend<true>(task, scratch) : attend<false>(task, scratch);
}

int64_t attention_floats(const HeadTask& task) {
  return task.bf16 ? ForwardLayout<true>(task).size() : ForwardLayout<false>(task).size();
}

void rotate_rows(Matrix x, Matrix cos, Matrix sin, int64_t head_dim, bool transposed, Matrix y, int64_t begin,
                 int64_t end) {
  const int64_t half = head_dim / 2;
  const bool rounds = y.dtype == DType::kBF16;
  std::vector<float> turned(size_t(rounds ? x.cols : 0));
  for (int64_t r = begin; r < end; ++r) {
    const float *const c_row = f32_row(cos, r), *const s_row = f32_row(sin, r);
    float* const to = rounds ? turned.data() : f32_row(y, r);
    for (int64_t head = 0; head < x.cols; head += head_dim) {
      const float *const from1 = f32_row(x, r) + head, *const from2 = from1 + half;
      float *const to1 = to + head, *const to2 = to1 + half;
      for_columns(half, [=](int64_t i, auto part) HWY_ATTR {
        const Vec x1 = load(from1 + i, part), x2 = load(from2 + i, part), c = load(c_row + i, part);
        const Vec s = transposed ? hn::Neg(load(s_row + i, part)) : load(s_row + i, part);
        store(hn::Sub(hn::Mul(x1, c), hn::Mul(x2, s)), to1 + i, part);
        store(hn::Add(hn::Mul(x2, c), hn::Mul(x1, s)), to2 + i, part);
      });
    }
    if (rounds) round_operands(turned.data(), x.cols, bf16_row(y, r));
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
HWY_EXPORT(rotate_rows);

}  // namespace

HeadTask head_task(const AttentionShape& shape, const AttentionItem& item, int64_t kv_head, DType compute,
                   TileShape tile) {
  const int64_t keys = int64_t(shape.kv_heads) * shape.head_dim;
  CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0);
  CHECK(item.q.cols == int64_t(shape.heads) * shape.head_dim && item.k.cols == keys && item.v.cols == keys);
  CHECK(item.v.rows == item.k.rows && item.k.rows >= item.q.rows);
  for (const Matrix& x : {item.q, item.k, item.v})
    CHECK(x.dtype == DType::kF32 || (x.dtype == DType::kBF16 && compute == DType::kBF16));
  CHECK(item.prefix_k.empty() == item.prefix_v.empty() && item.prefix_k.rows == item.prefix_v.rows);
  CHECK(item.prefix_k.empty() || (item.prefix_k.cols == keys && item.prefix_v.cols == keys));
  for (const Matrix& x : {item.prefix_k, item.prefix_v, item.log_sum})
    CHECK(x.empty() || x.dtype == DType::kF32);
  CHECK(item.out.rows == item.q.rows && item.out.cols == item.q.cols && is_float(item.out.dtype));
  CHECK(item.log_sum.empty() || (item.log_sum.rows == item.q.rows && item.log_sum.cols == shape.heads));
  const auto part = [&](const Matrix& x) {
    return x.empty() ? Matrix() : x.column_range(kv_head * shape.head_dim, shape.head_dim);
  };
  HeadTask task;
  task.item = &item;
  task.shape = tile;
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

void CpuBackend::run_attention(std::span<const HeadTask> tasks, int64_t (*floats)(const HeadTask&),
                               void (*run)(const HeadTask&, float*)) {
  int64_t most = 0;
  for (const HeadTask& task : tasks) most = std::max(most, floats(task));
  const Buffer scratch = allocate(size_t(most * pool().threads()) * sizeof(float));
  pool().parallel_for(int64_t(tasks.size()), [&](int64_t i, int worker) {
    run(tasks[size_t(i)], reinterpret_cast<float*>(scratch.data()) + most * worker);
  });
}

void CpuBackend::attention(const AttentionShape& shape, std::span<const AttentionItem> items, DType compute) {
  CHECK(!unsupported(compute));
  std::vector<HeadTask> tasks;
  tasks.reserve(items.size() * size_t(shape.kv_heads));
  for (const AttentionItem& item : items) {
    for (int64_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
      HeadTask task = head_task(shape, item, kv_head, compute, {kKeys, kQueries});
      for (task.begin = 0; task.begin < item.q.rows; task.begin = task.end) {
        task.end = std::min(item.q.rows, task.begin + kChunk);
        tasks.push_back(task);
      }
    }
  }
  run_attention(tasks, &HWY_DYNAMIC_DISPATCH(attention_floats), &HWY_DYNAMIC_DISPATCH(attention_head));
}

void CpuBackend::rotary(Matrix x, Matrix cos, Matrix sin, int head_dim, bool transposed, Matrix y) {
  CHECK(head_dim > 0 && head_dim % 2 == 0 && x.cols % head_dim == 0);
  CHECK(cos.rows == x.rows && sin.rows == x.rows && cos.cols == head_dim / 2 && sin.cols == head_dim / 2);
  CHECK(y.rows == x.rows && y.cols == x.cols && is_float(y.dtype));
  for (const Matrix& of : {x, cos, sin}) CHECK(of.dtype == DType::kF32);
  for_rows(x.rows, x.cols, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(rotate_rows)(x, cos, sin, head_dim, transposed, y, begin, end);
  });
}

}  // namespace coppice
#endif
