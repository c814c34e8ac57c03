#include "common/tensor/tensor.h"

#include <cstring>

#include "common/base/error.h"

namespace coppice {

size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kF16:
    case DType::kBF16: return 2;
    case DType::kI64: return 8;
    case DType::kU8: return 1;
  }
  return 0;
}

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "F32";
    case DType::kI32: return "I32";
    case DType::kF16: return "F16";
    case DType::kBF16: return "BF16";
    case DType::kI64: return "I64";
    case DType::kU8: return "U8";
  }
  return "";
}

float from_f16(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
    const float magnitude = float(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

std::string shape_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Tensor to_f32(const TensorView& view) {
  Tensor out(view.shape);
  const std::byte* in = view.bytes.data();
  switch (view.dtype) {
    case DType::kF32: std::memcpy(out.values.data(), in, view.bytes.size()); return out;
    case DType::kF16:
    case DType::kBF16:
      for (size_t i = 0; i < out.values.size(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, in + 2 * i, 2);
        out.values[i] = view.dtype == DType::kF16 ? from_f16(bits) : from_bf16(bits);
      }
      return out;
    default: throw invalid("dtype is {}; F32, F16 and BF16 are accepted", dtype_name(view.dtype));
  }
}

}  // namespace coppice
