#include <cmath>

#include "tests/contract/backend/operators.h"
#include "tests/contract/backend/tolerance.h"

namespace coppice::contract {
namespace {

struct Variant {
  std::string name;
  int heads = 2, kv_heads = 2;
  int64_t prefix = 0, window = 0;
  int64_t past = 0;  // keys before the first query's own
  bool log_sum = true;
  float scale = 1;  // of q: large scores make the softmax sharp
};

const Variant kVariants[] = {
    {.name = "plain"},
    {.name = "one_head", .heads = 1, .kv_heads = 1},
    {.name = "grouped_queries", .heads = 6, .kv_heads = 2},
    {.name = "window", .window = 5},
    {.name = "wide_window", .window = 70},
    {.name = "prefix", .heads = 4, .kv_heads = 2, .prefix = 10},
    {.name = "prefix_window", .prefix = 3, .window = 9},
    {.name = "sharp", .scale = 60},
};
const Variant kForwardVariants[] = {
    {.name = "past", .heads = 4, .kv_heads = 1, .past = 37},
    {.name = "long_past", .past = 300},
    {.name = "past_prefix_window", .prefix = 5, .window = 12, .past = 20},
    {.name = "no_log_sum", .log_sum = false},
};

AttentionShape shape_of(const Variant& variant, int64_t head_dim) {
  return {variant.heads, variant.kv_heads, int(head_dim), 1 / std::sqrt(float(head_dim))};
}

// A size is (queries, head_dim).
std::vector<Size> attention_sizes() {
  std::vector<Size> sizes = {{1, 8},   {2, 16},  {7, 24},   {17, 64}, {33, 8},
                             {64, 32}, {65, 80}, {131, 16}, {70, 256}};
  if (long_tests()) sizes.insert(sizes.end(), {{300, 128}, {1025, 64}, {513, 256}});
  return sizes;
}

enum Index { kQ, kK, kV, kPrefixK, kPrefixV, kOut, kLogSum, kDout, kDq, kDk, kDv, kDprefixK, kDprefixV };

Item make_forward(const Variant& variant, Size size, Random& random) {
  const int64_t keys = size.rows + variant.past, width = variant.heads * size.cols,
                kv = variant.kv_heads * size.cols;
  return {whole_in(uniform(size.rows, width, random, 2 * variant.scale)),
          whole_in(uniform(keys, kv, random)),
          whole_in(uniform(keys, kv, random)),
          whole_in(uniform(variant.prefix, kv, random)),
          whole_in(uniform(variant.prefix, kv, random)),
          whole_out(size.rows, width),
          whole_out(size.rows, variant.heads)};
}

AttentionItem forward_item(const Variant& variant, const Placed& item) {
  const bool prefix = variant.prefix > 0;
  return {item[kQ],
          item[kK],
          item[kV],
          prefix ? item[kPrefixK] : Matrix(),
          prefix ? item[kPrefixV] : Matrix(),
          variant.window,
          item[kOut],
          variant.log_sum ? item[kLogSum] : Matrix()};
}

Operator forward(const Variant& variant, DType compute) {
  Operator op;
  op.name = "attention_" + variant.name + (compute == DType::kF32 ? "_f32" : "_bf16");
  op.sizes = attention_sizes();
  op.make = [=](Size size, Random& random) { return make_forward(variant, size, random); };
  op.run = [=](Backend& backend, std::span<const Placed> items) {
    std::vector<AttentionItem> list;
    for (const Placed& item : items) list.push_back(forward_item(variant, item));
    const int64_t head_dim = items.empty() ? 8 : items[0][kQ].cols / variant.heads;
    backend.attention(shape_of(variant, head_dim), list, compute);
  };
  op.tolerance = compute == DType::kF32 ? kSumTolerance : kRoundedTolerance;
  op.grouped = true;
  op.spreads_nan = true;
  op.flushes_denormals = compute == DType::kBF16;
  return op;
}

// The forward runs first, in the same call of run, so that out and log_sum are the backend's own.
// round_out: the backward is given `out` as BF16.
Operator backward(const Variant& variant, DType compute, bool round_out = false) {
  Operator op = forward(variant, compute);
  op.name = "attention_backward_" + variant.name + (compute == DType::kF32 ? "_f32" : "_bf16") +
            (round_out ? "_out_rounded" : "");
  // dq and dk of a query with one key are zero, but for rounding; what cancels in dk is of q's size.
  op.magnitudes.assign(kDprefixV + 1, 1);
  op.magnitudes[kDk] = op.magnitudes[kDprefixK] = variant.scale;
  op.make = [=](Size size, Random& random) -> Item {
    const int64_t width = variant.heads * size.cols, kv = variant.kv_heads * size.cols;
    Item item = make_forward(variant, size, random);
    item.push_back(whole_in(uniform(size.rows, width, random)));
    item.push_back(whole_out(size.rows, width));
    for (int i = 0; i < 2; ++i) item.push_back(whole_out(size.rows, kv));
    for (int i = 0; i < 2; ++i) item.push_back(whole_inout(uniform(variant.prefix, kv, random)));
    return item;
  };
  op.run = [=](Backend& backend, std::span<const Placed> items) {
    std::vector<AttentionItem> forwards;
    std::vector<AttentionBackwardItem> list;
    const bool prefix = variant.prefix > 0;
    for (const Placed& item : items) {
      forwards.push_back(forward_item(variant, item));
      list.push_back({forwards.back(), item[kDout], item[kDq], item[kDk], item[kDv],
                      prefix ? item[kDprefixK] : Matrix(), prefix ? item[kDprefixV] : Matrix()});
    }
    const int64_t head_dim = items.empty() ? 8 : items[0][kQ].cols / variant.heads;
    backend.attention(shape_of(variant, head_dim), forwards, compute);
    std::vector<Buffer> outs;
    for (size_t i = 0; round_out && i < list.size(); ++i) {
      Matrix& out = list[i].forward.out;
      outs.push_back(backend.allocate(size_t(out.size()) * sizeof(uint16_t)));
      const UnaryItem copy{out, outs.back().matrix(out.rows, out.cols, DType::kBF16)};
      backend.copy({&copy, 1});
      out = copy.y;
    }
    backend.attention_backward(shape_of(variant, head_dim), list, compute);
  };
  return op;
}

}  // namespace

std::vector<Operator> attention_operators(DType compute) {
  std::vector<Operator> all;
  for (const Variant& variant : kVariants) {
    all.push_back(forward(variant, compute));
    all.push_back(backward(variant, compute));
    if (compute == DType::kF32) continue;
    all.push_back(rounded(forward(variant, compute), {kOut}));
    all.push_back(rounded(forward(variant, compute), {kQ, kK, kV, kOut}));
    all.push_back(backward(variant, compute, true));
    all.push_back(rounded(backward(variant, compute, true), {kQ, kK, kV}));
    all.push_back(rounded(backward(variant, compute, true), {kQ, kK, kV, kDout}));
  }
  for (const Variant& variant : kForwardVariants) {
    all.push_back(forward(variant, compute));
    if (compute == DType::kBF16) all.push_back(rounded(forward(variant, compute), {kQ, kK, kV, kOut}));
  }
  return all;
}

// A size is (rows, half of a head).
std::vector<Operator> rotary_operators() {
  std::vector<Operator> all;
  for (bool transposed : {false, true}) {
    Operator op;
    op.name = transposed ? "rotary_transposed" : "rotary";
    op.sizes = {{1, 1}, {3, 4}, {7, 8}, {5, 9}, {64, 16}, {130, 32}, {3, 40}};
    op.make = [](Size size, Random& random) -> Item {
      const int64_t cols = 3 * 2 * size.cols;
      return {row_in(uniform(size.rows, cols, random)), row_in(uniform(size.rows, size.cols, random)),
              row_in(uniform(size.rows, size.cols, random)), row_out(size.rows, cols)};
    };
    op.run = [=](Backend& backend, std::span<const Placed> items) {
      const Placed& item = items[0];
      backend.rotary(item[0], item[1], item[2], int(2 * item[1].cols), transposed, item[3]);
    };
    op.tolerance = kSumTolerance;
    all.push_back(op);
    all.push_back(rounded(op, {3}, kRoundedTolerance));
    op.name += "_in_place";
    op.make = [](Size size, Random& random) -> Item {
      return {row_inout(uniform(size.rows, 3 * 2 * size.cols, random)),
              row_in(uniform(size.rows, size.cols, random)), row_in(uniform(size.rows, size.cols, random))};
    };
    op.run = [=](Backend& backend, std::span<const Placed> items) {
      const Placed& item = items[0];
      backend.rotary(item[0], item[1], item[2], int(2 * item[1].cols), transposed, item[0]);
    };
    all.push_back(op);
  }
  return all;
}

}  // namespace coppice::contract
