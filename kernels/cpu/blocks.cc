#include "kernels/cpu/blocks.h"

#include <numeric>
#include <utility>

namespace coppice {
namespace {

struct Extent {
  const std::byte *begin, *end;
};

Extent extent_of(const Matrix& x) {
  if (x.size() == 0) return {x.data, x.data};
  return {x.data, x.data + size_t((x.rows - 1) * x.stride + x.cols) * dtype_size(x.dtype)};
}

bool same(const Matrix& a, const Matrix& b) {
  return a.data == b.data && a.rows == b.rows && a.cols == b.cols && a.stride == b.stride;
}

// Whether a and b, a.data <= b.data, have an element in common. Column ranges of one matrix lie between each
// other's rows and have none.
bool share_memory(const Matrix& a, const Matrix& b) {
  if (a.size() == 0 || b.size() == 0 || extent_of(a).end <= b.data) return false;
  if (a.stride != b.stride || a.stride <= 0 || a.dtype != b.dtype) return true;
  const int64_t column = (b.data - a.data) / int64_t(dtype_size(a.dtype)) % a.stride;
  return column < a.cols || column + b.cols > a.stride;
}

// For every item the smallest item of those that it shares memory with, directly or through others.
std::vector<size_t> group_items(std::span<const Matrix> outputs) {
  std::vector<size_t> order(outputs.size()), group(outputs.size());
  std::iota(order.begin(), order.end(), size_t(0));
  group = order;
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return outputs[a].data < outputs[b].data; });
  const auto root = [&](size_t i) {
    while (group[i] != i) i = group[i];
    return i;
  };
  for (size_t i = 0; i < order.size(); ++i) {
    const Matrix& a = outputs[order[i]];
    for (size_t j = i + 1; j < order.size() && outputs[order[j]].data < extent_of(a).end; ++j) {
      if (!share_memory(a, outputs[order[j]])) continue;
      const size_t x = root(order[i]), y = root(order[j]);
      group[std::max(x, y)] = std::min(x, y);
    }
  }
  for (size_t i = 0; i < group.size(); ++i) group[i] = root(i);
  return group;
}

}  // namespace

BlockPlan plan_blocks(std::span<const Matrix> outputs, Cut cut) {
  BlockPlan plan;
  const std::vector<size_t> group = group_items(outputs);
  plan.members.resize(outputs.size());
  std::iota(plan.members.begin(), plan.members.end(), int64_t(0));
  std::sort(plan.members.begin(), plan.members.end(), [&](int64_t a, int64_t b) {
    return std::pair(group[size_t(a)], a) < std::pair(group[size_t(b)], b);
  });
  plan.tasks.reserve(outputs.size());
  for (size_t first = 0, end; first < plan.members.size(); first = end) {
    const Matrix& output = outputs[size_t(plan.members[first])];
    bool whole = false;
    for (end = first; end < plan.members.size(); ++end) {
      const size_t item = size_t(plan.members[end]);
      if (group[item] != group[size_t(plan.members[first])]) break;
      whole |= !same(outputs[item], output);
    }
    BlockPlan::Task task = {int64_t(first), int64_t(end - first), whole, {}};
    if (whole) {
      plan.tasks.push_back(task);
      continue;
    }
    const int64_t cols = cut.cols > 0 ? cut.cols : std::max<int64_t>(1, output.cols);
    const int64_t rows = cut.rows > 0 ? cut.rows : rows_of_block(std::min(cols, output.cols));
    for (int64_t row = 0; row < output.rows; row += rows) {
      for (int64_t column = 0; column < output.cols; column += cols) {
        task.block = {row, std::min(rows, output.rows - row), column, std::min(cols, output.cols - column)};
        plan.tasks.push_back(task);
      }
    }
  }
  return plan;
}

}  // namespace coppice
