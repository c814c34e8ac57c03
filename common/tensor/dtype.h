#pragma once
// The element types that files, weights and rows come in, and conversions between them. bfloat16 and float16 are kept as
// their 16 bits; arithmetic is done in float32. Thread: any.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace coppice {

enum class DType { kF32, kF16, kBF16, kI32, kI64, kU8 };

size_t dtype_size(DType dtype);            // in bytes
std::string_view dtype_name(DType dtype);  // as safetensors writes it: "F32", "F16", "BF16", "I32", "I64", "U8"

// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float from_bf16(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
inline float round_to_bf16(float value) { return from_bf16(to_bf16(value)); }
float from_f16(uint16_t bits);

}  // namespace coppice
