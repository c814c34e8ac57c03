#pragma once
// Named arrays in host memory: TensorView borrows bytes (a mapped file, a message), Tensor owns float32 values. Row-major,
// without strides. What lives on a device is a Matrix (kernels/backend.h). Thread: any; no sharing while one writes.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/tensor/dtype.h"

namespace coppice {

using Shape = std::vector<int64_t>;

int64_t element_count(const Shape& shape);     // 1 for an empty shape
std::string shape_string(const Shape& shape);  // "[2, 3]"

struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;  // element_count(shape) * dtype_size(dtype) of them, not necessarily aligned
};

struct Tensor {
  Shape shape;
  std::vector<float> values;

  Tensor() = default;
  explicit Tensor(Shape tensor_shape) : shape(std::move(tensor_shape)), values(size_t(element_count(shape))) {}
  TensorView view() const { return {DType::kF32, shape, std::as_bytes(std::span(values))}; }
};

// The values of a floating-point view as float32. Throws kInvalid for an integer dtype.
Tensor to_f32(const TensorView& view);

}  // namespace coppice
