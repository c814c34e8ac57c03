#include "kernels/backend.h"

#include <utility>

#include "common/base/check.h"

namespace coppice {

Matrix Matrix::row_range(int64_t begin, int64_t count) const {
  CHECK(begin >= 0 && count >= 0 && begin + count <= rows);
  Matrix part = *this;
  part.data += size_t(begin * stride) * dtype_size(dtype);
  part.rows = count;
  return part;
}

Matrix Matrix::column_range(int64_t begin, int64_t count) const {
  CHECK(begin >= 0 && count >= 0 && begin + count <= cols);
  Matrix part = *this;
  part.data += size_t(begin) * dtype_size(dtype);
  part.cols = count;
  return part;
}

Matrix Matrix::reshaped(int64_t new_rows, int64_t new_cols) const {
  CHECK(stride == cols && new_rows * new_cols == rows * cols);
  Matrix view = *this;
  view.rows = new_rows;
  view.cols = view.stride = new_cols;
  return view;
}

Matrix as_bfloat16(Matrix f32) {
  CHECK(f32.dtype == DType::kF32);
  return {f32.data, DType::kBF16, f32.rows, f32.cols, 2 * f32.stride};
}

Buffer::~Buffer() {
  if (data_ != nullptr) backend_->release(data_, bytes_);
}

Matrix Buffer::matrix(int64_t rows, int64_t cols, DType dtype) const {
  CHECK(size_t(rows * cols) * dtype_size(dtype) <= bytes_);
  return {data_, dtype, rows, cols, cols};
}

void Buffer::swap(Buffer& other) noexcept {
  std::swap(backend_, other.backend_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

}  // namespace coppice
