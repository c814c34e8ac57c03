#pragma once
// How the items of one operator are cut into tasks: their outputs by blocks, and items whose outputs share
// memory one after another, in the order of the items, inside one task. Thread: any; pure functions.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace coppice {

// A rectangle of an output.
struct Block {
  int64_t row = 0, rows = 0, column = 0, cols = 0;

  Matrix of(const Matrix& x) const { return x.row_range(row, rows).column_range(column, cols); }
};

// Rows of so many columns that are worth a task of their own (about ten microseconds of pointwise work).
inline int64_t rows_of_block(int64_t cols) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, cols));
}

// The largest block; 0 rows: as rows_of_block() says; 0 columns: all.
struct Cut {
  int64_t rows = 0, cols = 0;
};

struct BlockPlan {
  struct Task {
    int64_t first = 0, count = 0;  // in members
    bool whole = false;            // outputs that overlap without being the same: each item is done whole
    Block block;
  };
  std::vector<int64_t> members;  // item numbers, grouped by the memory they share, ascending within a group
  std::vector<Task> tasks;

  // body(item, block) for the items of task i, in their order.
  template <typename Body>
  void run(int64_t i, std::span<const Matrix> outputs, const Body& body) const {
    const Task& task = tasks[size_t(i)];
    for (int64_t m = task.first; m < task.first + task.count; ++m) {
      const int64_t item = members[size_t(m)];
      const Matrix& output = outputs[size_t(item)];
      body(item, task.whole ? Block{0, output.rows, 0, output.cols} : task.block);
    }
  }
};

BlockPlan plan_blocks(std::span<const Matrix> outputs, Cut cut);

}  // namespace coppice
