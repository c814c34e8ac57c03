#include "kernels/cpu/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/convert.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

// Denormals stay.
void round_row(const float* from, int64_t cols, uint16_t* to) {
  const Words words;
  const hn::Rebind<uint16_t, Words> halves;
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) {
    const auto bits = hn::ShiftRight<16>(hn::BitCast(words, round_to_bfloat16(load(from + c, Whole()))));
    hn::StoreU(hn::DemoteTo(halves, hn::BitCast(Ints(), bits)), halves, to + c);
  }
  for (; c < cols; ++c) to[c] = to_bf16(from[c]);
}

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
#include "kernels/host_backend.h"

namespace coppice {
namespace {

HWY_EXPORT(round_row);
HWY_EXPORT(widen_row);

uint16_t half_at(const std::byte* bytes, int64_t i) {
  uint16_t bits;
  std::memcpy(&bits, bytes + i * int64_t(sizeof bits), sizeof bits);
  return bits;
}

}  // namespace

void round_rows_to_bf16(const Matrix& x, uint16_t* to) {
  for (int64_t r = 0; r < x.rows; ++r)
    HWY_DYNAMIC_DISPATCH(round_row)(f32_row(x, r), x.cols, to + r * x.cols);
}

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

void read_bf16(const TensorView& view, int64_t begin, int64_t count, uint16_t* to) {
  if (view.dtype == DType::kBF16) {
    std::memcpy(to, view.bytes.data() + size_t(begin) * sizeof(uint16_t), size_t(count) * sizeof(uint16_t));
    return;
  }
  constexpr int64_t kChunk = 1024;
  float values[kChunk];
  for (int64_t done = 0; done < count; done += kChunk) {
    const int64_t part = std::min(kChunk, count - done);
    read_f32(view, begin + done, part, values);
    HWY_DYNAMIC_DISPATCH(round_row)(values, part, to + done);
  }
}

}  // namespace coppice
#endif
