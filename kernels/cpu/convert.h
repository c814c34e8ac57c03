#pragma once
// Rows between the dtypes that products want. Thread: any.

#include <cstdint>

#include "kernels/backend.h"

namespace coppice {

// As operands of a product are rounded (bf16_gemm.h): denormals become zero. `to` may be where `from` is.
void round_operands(const float* from, int64_t count, uint16_t* to);

// count values of bfloat16 as they are.
void widen_bf16(const uint16_t* from, int64_t count, float* to);

// Elements [begin, begin + count) of a floating-point view.
void read_f32(const TensorView& view, int64_t begin, int64_t count, float* to);

}  // namespace coppice
