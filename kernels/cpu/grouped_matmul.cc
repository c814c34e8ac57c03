// Products of adapters: many small ones in one call. c is cut into blocks; a block is one product by
// gemm-inl.h, whose elements do not know the block they are in, so the cut may follow the machine. In BF16
// the operands of a block are rounded first and multiplied in float32, which gives the very products of
// bfloat16 instructions (their sums are float32 too).

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/grouped_matmul.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

// scratch: of the size that scratch_floats() says.
void product_block(const MatmulItem& item, const Block& block, bool bf16, float* scratch) {
  const int64_t depth = item.transpose_a ? item.a.rows : item.a.cols;
  LeftOperand a;
  if (item.transpose_a) {
    a = {item.a.as<float>() + block.row, 1, item.a.stride};
    if (bf16) round_into(a.data, depth, block.rows, item.a.stride, scratch), a = {scratch, 1, block.rows};
  } else {
    a = {f32_row(item.a, block.row), item.a.stride, 1};
    if (bf16) round_into(a.data, block.rows, depth, item.a.stride, scratch), a = {scratch, depth, 1};
  }
  if (bf16) scratch += block.rows * depth;
  const float* b = item.b.as<float>() + block.column;
  int64_t b_stride = item.b.stride;
  if (item.transpose_b) {
    transpose_into(f32_row(item.b, block.column), block.cols, depth, item.b.stride, scratch, block.cols);
    if (bf16) round_in_place(scratch, depth, block.cols, block.cols);
    b = scratch, b_stride = block.cols;
  } else if (bf16) {
    round_into(b, depth, block.cols, item.b.stride, scratch);
    b = scratch, b_stride = block.cols;
  }
  multiply(block.rows, block.cols, depth, a, b, b_stride, f32_row(item.c, block.row) + block.column,
           item.c.stride, item.alpha, item.accumulate ? Store::kAccumulate : Store::kOverwrite);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "common/base/check.h"

namespace coppice {
namespace {

HWY_EXPORT(product_block);

// Enough rows to be worth the transposition of a block of b, enough columns for the widest tile to repeat.
constexpr Cut kBlock = {128, 240};

int64_t scratch_floats(const MatmulItem& item, const Block& block, bool bf16) {
  const int64_t depth = item.transpose_a ? item.a.rows : item.a.cols;
  return (bf16 ? block.rows * depth : 0) + (bf16 || item.transpose_b ? block.cols * depth : 0);
}

void check_item(const MatmulItem& item) {
  const int64_t rows = item.transpose_a ? item.a.cols : item.a.rows;
  const int64_t depth = item.transpose_a ? item.a.rows : item.a.cols;
  const int64_t cols = item.transpose_b ? item.b.rows : item.b.cols;
  CHECK(depth == (item.transpose_b ? item.b.cols : item.b.rows));
  CHECK(item.c.rows == rows && item.c.cols == cols);
  for (const Matrix& x : {item.a, item.b, item.c}) CHECK(x.dtype == DType::kF32);
}

}  // namespace

void CpuBackend::grouped_matmul(std::span<const MatmulItem> items, DType compute) {
  CHECK(!unsupported(compute));
  const bool bf16 = compute == DType::kBF16;
  std::vector<Matrix> outputs;
  for (const MatmulItem& item : items) {
    check_item(item);
    outputs.push_back(item.c);
  }
  const BlockPlan plan = plan_blocks(outputs, kBlock);
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
      HWY_DYNAMIC_DISPATCH(product_block)(items[size_t(item)], block, bf16, own);
    });
  });
}

}  // namespace coppice
#endif
