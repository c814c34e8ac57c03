#pragma once
// What the forward and the backward of attention (attention.cc, attention_backward.cc) share: a task is one
// key head of one item, its keys in tiles at fixed multiples from the first prefix row and from the first own
// row. Thread: any; pure functions.

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "kernels/host_backend.h"

namespace coppice {

// What is computed of a tile is a multiple of this: the depth of a register tile of bf16_gemm.h.
constexpr int64_t kWhole = 32;

inline int64_t round_up(int64_t value, int64_t to) {
  return (value + to - 1) / to * to;
}

// Where the parts of a task's scratch stand, in floats. Every part begins a cache line.
class ScratchLayout {
 public:
  int64_t size() const { return size_; }

 protected:
  int64_t take(int64_t floats) {
    const int64_t at = size_;
    size_ += round_up(floats, 16);
    return at;
  }

 private:
  int64_t size_ = 0;
};

// Keys and values of one head that are met together; the first key's number.
struct KeyTile {
  Matrix k, v;
  Matrix dk, dv;  // backward: where their gradients go, written not added
  int64_t first, count;
};

// The part of an operand that belongs to one key head, in the way of KeyTile.
struct KeyRows {
  Matrix k, v, dk, dv;

  int64_t tiles(int64_t keys) const { return k.empty() ? 0 : (k.rows + keys - 1) / keys; }
  KeyTile tile(int64_t row, int64_t keys, int64_t first_number) const {
    const int64_t count = std::min(keys, k.rows - row);
    const auto part = [&](const Matrix& x) { return x.empty() ? Matrix() : x.row_range(row, count); };
    return {part(k), part(v), part(dk), part(dv), first_number + row, count};
  }
};

// Keys and queries of a tile at most.
struct TileShape {
  int64_t keys, queries;
};

// One key head of one item.
struct HeadTask {
  const AttentionItem* item = nullptr;
  TileShape shape;
  KeyRows prefix, own;
  int64_t kv_head = 0, group = 0, head_dim = 0;
  int64_t begin = 0, end = 0;  // queries
  float scale = 0;
  bool bf16 = false;
  Matrix dout, dq;  // backward, whole

  int64_t prefix_rows() const { return prefix.k.empty() ? 0 : prefix.k.rows; }
  int64_t number_of(int64_t query) const { return prefix_rows() + own.k.rows - item->q.rows + query; }
  int64_t tiles() const { return prefix.tiles(shape.keys) + own.tiles(shape.keys); }
  KeyTile tile(int64_t i) const {
    const int64_t of_prefix = prefix.tiles(shape.keys);
    return i < of_prefix ? prefix.tile(i * shape.keys, shape.keys, 0)
                         : own.tile((i - of_prefix) * shape.keys, shape.keys, prefix_rows());
  }
  // How many keys of a tile the queries [first, first + count) can see at most.
  int64_t visible(const KeyTile& tile, int64_t first, int64_t count) const {
    if (item->window > 0 && tile.first + tile.count <= number_of(first) - item->window + 1) return 0;
    return std::clamp<int64_t>(number_of(first + count - 1) - tile.first + 1, 0, tile.count);
  }
  // Whether each of these queries sees each of the first `keys` keys from a tile's beginning, so that nothing
  // need be masked.
  bool all_seen(const KeyTile& tile, int64_t keys, int64_t first, int64_t count) const {
    return keys <= tile.count && tile.first + keys - 1 <= number_of(first) &&
           (item->window == 0 || tile.first > number_of(first + count - 1) - item->window);
  }
  // Tiles of queries, of one head after another: (head, first query, queries).
  int64_t query_tiles() const { return group * query_tiles_of_head(); }
  int64_t query_tiles_of_head() const { return (end - begin + shape.queries - 1) / shape.queries; }
  std::tuple<int64_t, int64_t, int64_t> query_tile(int64_t i) const {
    const int64_t of_head = query_tiles_of_head(), first = begin + i % of_head * shape.queries;
    return {i / of_head, first, std::min(shape.queries, end - first)};
  }
  int64_t head(int64_t i) const { return kv_head * group + i; }
  int64_t column(int64_t i) const { return head(i) * head_dim; }
  // The rows [first, first + count) of x, of queries, in one head.
  Matrix head_rows(const Matrix& x, int64_t i, int64_t first, int64_t count) const {
    return x.row_range(first, count).column_range(column(i), head_dim);
  }
};

// attention.cc
HeadTask head_task(const AttentionShape& shape, const AttentionItem& item, int64_t kv_head, DType compute,
                   TileShape tile);

}  // namespace coppice
