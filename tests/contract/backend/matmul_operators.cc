#include "tests/contract/backend/operators.h"
#include "tests/contract/backend/tolerance.h"

namespace coppice::contract {
namespace {

std::string suffix(DType compute) {
  return compute == DType::kF32 ? "_f32" : "_bf16";
}

// Rows, and the depth of the sum; the other side of the weight is outputs_for(depth).
std::vector<Size> linear_sizes() {
  std::vector<Size> sizes = {{1, 1},   {3, 7},    {7, 8},    {8, 9},     {9, 15},     {15, 16},   {16, 17},
                             {17, 31}, {31, 33},  {33, 64},  {64, 65},   {65, 96},    {127, 128}, {128, 129},
                             {129, 7}, {255, 33}, {256, 40}, {257, 100}, {300, 1000}, {2, 2049}};
  if (long_tests()) sizes.insert(sizes.end(), {{1030, 768}, {515, 2048}, {64, 11008}});
  return sizes;
}
int64_t outputs_for(int64_t depth) {
  return depth % 48 * 3 + 2;
}

Operator linear(DType compute, DType stored, bool bias) {
  Operator op;
  op.name = "linear" + suffix(compute) + "_stored_" + std::string(dtype_name(stored)) + (bias ? "_bias" : "");
  op.sizes = linear_sizes();
  op.make = [=](Size size, Random& random) -> Item {
    const Array weight = uniform(outputs_for(size.cols), size.cols, random);
    return {row_in(uniform(size.rows, size.cols, random)), row_out(size.rows, weight.rows),
            whole_in(stored == DType::kF32 ? weight : in_dtype(weight, stored)),
            whole_in(uniform(1, weight.rows, random))};
  };
  op.run = [=](Backend& backend, std::span<const Placed> items) {
    const Placed& item = items[0];
    const auto weight = backend.prepare_weight((*item.host)[2].array.view(), compute);
    backend.linear(*weight, item[0], bias ? item[3] : Matrix(), item[1]);
  };
  op.tolerance = kSumTolerance;
  op.flushes_denormals = compute == DType::kBF16;
  return op;
}

Operator linear_backward(DType compute, bool accumulate) {
  Operator op;
  op.name = "linear_backward" + suffix(compute) + (accumulate ? "_accumulate" : "");
  op.sizes = linear_sizes();
  op.make = [=](Size size, Random& random) -> Item {
    const int64_t in = outputs_for(size.cols);
    return {row_in(uniform(size.rows, size.cols, random)),
            accumulate ? row_inout(uniform(size.rows, in, random)) : row_out(size.rows, in),
            whole_in(uniform(size.cols, in, random))};
  };
  op.run = [=](Backend& backend, std::span<const Placed> items) {
    const auto weight = backend.prepare_weight((*items[0].host)[2].array.view(), compute);
    backend.linear_backward(*weight, items[0][0], items[0][1], accumulate);
  };
  op.tolerance = kSumTolerance;
  op.flushes_denormals = compute == DType::kBF16;
  return op;
}

// With a product of thin factors beside W, for all rows.
Operator linear_low_rank(DType compute, bool backward, bool accumulate = false) {
  Operator op = backward ? linear_backward(compute, accumulate) : linear(compute, DType::kF32, true);
  op.name += "_low_rank";
  if (compute == DType::kBF16) op.tolerance = kRoundedTolerance;  // the inner rows are
  op.make = [=](Size size, Random& random) -> Item {
    const int64_t out = backward ? size.cols : outputs_for(size.cols),
                  in = backward ? outputs_for(size.cols) : size.cols;
    const int64_t rank = 1 + size.rows % 19;
    return {row_in(uniform(size.rows, size.cols, random)),
            accumulate ? row_inout(uniform(size.rows, in, random)) : row_out(size.rows, backward ? in : out),
            whole_in(uniform(out, in, random)),
            whole_in(uniform(1, out, random)),
            whole_in(uniform(rank, in, random)),
            whole_in(uniform(out, rank, random)),
            row_out(size.rows, rank)};
  };
  op.run = [=](Backend& backend, std::span<const Placed> items) {
    const Placed& item = items[0];
    const auto weight = backend.prepare_weight((*item.host)[2].array.view(), compute);
    const LowRankItem beside = {.down = item[4], .up = item[5], .inner = item[6], .scale = 0.75f};
    if (backward) {
      backend.linear_backward(*weight, item[0], item[1], accumulate, {&beside, 1});
    } else {
      backend.linear(*weight, item[0], item[3], item[1], {&beside, 1});
    }
  };
  return op;
}

// Sizes are those of adapters: a few columns or rows, and sums over either side.
Operator grouped(DType compute, bool transpose_a, bool transpose_b, bool accumulate) {
  Operator op;
  op.name = "grouped_matmul" + suffix(compute) + (transpose_a ? "_ta" : "") + (transpose_b ? "_tb" : "") +
            (accumulate ? "_accumulate" : "");
  op.sizes = {{1, 1}, {3, 7}, {8, 8}, {9, 15}, {16, 16}, {17, 33}, {65, 9}, {130, 64}, {40, 300}, {5, 1000}};
  if (long_tests()) op.sizes.insert(op.sizes.end(), {{1000, 768}, {8, 4096}});
  op.make = [=](Size size, Random& random) -> Item {
    const int64_t rows = size.rows, depth = size.cols, cols = depth % 37 + 1;
    return {whole_in(transpose_a ? uniform(depth, rows, random) : uniform(rows, depth, random)),
            whole_in(transpose_b ? uniform(cols, depth, random) : uniform(depth, cols, random)),
            accumulate ? whole_inout(uniform(rows, cols, random)) : whole_out(rows, cols)};
  };
  op.run = [=](Backend& backend, std::span<const Placed> items) {
    std::vector<MatmulItem> list;
    for (const Placed& item : items) {
      const float alpha = 0.75f + 0.3f * float(item[0].cols % 3);
      list.push_back({item[0], item[1], item[2], transpose_a, transpose_b, alpha, accumulate});
    }
    backend.grouped_matmul(list, compute);
  };
  op.tolerance = kSumTolerance;
  op.grouped = true;
  op.flushes_denormals = compute == DType::kBF16;
  return op;
}

}  // namespace

std::vector<Operator> matmul_operators(DType compute) {
  std::vector<Operator> all = {linear(compute, DType::kF32, false),  linear(compute, DType::kF32, true),
                               linear(compute, DType::kBF16, false), linear(compute, DType::kF16, true),
                               linear_backward(compute, false),      linear_backward(compute, true),
                               linear_low_rank(compute, false),      linear_low_rank(compute, true),
                               linear_low_rank(compute, true, true)};
  if (compute == DType::kBF16) {
    const size_t count = all.size();
    for (size_t i = 0; i < count; ++i) all.push_back(rounded(all[i], {0}));  // x, dy
    for (const Operator& op :
         {linear(compute, DType::kF32, false), linear(compute, DType::kF16, true),
          linear_low_rank(compute, false), linear_backward(compute, false), linear_low_rank(compute, true)}) {
      all.push_back(rounded(op, {1}, kRoundedTolerance));  // y, dx
      all.push_back(rounded(op, {0, 1}, kRoundedTolerance));
    }
  }
  for (int variant = 0; variant < 8; ++variant) {
    const Operator product = grouped(compute, (variant & 1) != 0, (variant & 2) != 0, (variant & 4) != 0);
    all.push_back(product);
    if (compute != DType::kBF16) continue;
    all.insert(all.end(), {rounded(product, {0}), rounded(product, {1}), rounded(product, {0, 1})});
  }
  return all;
}

}  // namespace coppice::contract
