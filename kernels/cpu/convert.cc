#include "kernels/cpu/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/convert.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

void widen_row(const uint16_t* from, int64_t cols, float* to) {
  for_columns(cols, [=](int64_t c, auto part) HWY_ATTR { store(load(from + c, part), to + c, part); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <cmath>
#include <cstring>

#include "common/base/check.h"
#include "kernels/cpu/bf16_gemm.h"

namespace coppice {
namespace {

HWY_EXPORT(widen_row);

uint16_t half_at(const std::byte* bytes, int64_t i) {
  uint16_t bits;
  std::memcpy(&bits, bytes + i * int64_t(sizeof bits), sizeof bits);
  return bits;
}

}  // namespace

void round_operands(const float* from, int64_t count, uint16_t* to) {
  const int64_t even = count / 2 * 2;
  pack_pairs_along(from, 1, even, even, reinterpret_cast<Pair*>(to), even / 2);
  if (even < count) {
    const float last = from[even];
    to[even] = to_bf16(std::fpclassify(last) == FP_SUBNORMAL ? std::copysign(0.0f, last) : last);
  }
}

void widen_bf16(const uint16_t* from, int64_t count, float* to) {
  HWY_DYNAMIC_DISPATCH(widen_row)(from, count, to);
}

void read_f32(const TensorView& view, int64_t begin, int64_t count, float* to) {
  const std::byte* const bytes = view.bytes.data() + size_t(begin) * dtype_size(view.dtype);
  switch (view.dtype) {
    case DType::kF32:
      std::memcpy(to, bytes, size_t(count) * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) to[i] = from_f16(half_at(bytes, i));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) to[i] = from_bf16(half_at(bytes, i));
      return;
    default:
      CHECK(false);
  }
}

}  // namespace coppice
#endif
