#include "worker/rows.h"

namespace coppice {

namespace {

Rows copy_in(Backend& backend, Matrix from, DType dtype) {
  Rows made = make_rows(backend, from.rows, from.cols, dtype);
  const UnaryItem item{from, made.matrix};
  backend.copy({&item, 1});
  return made;
}

}  // namespace

Rows make_rows(Backend& backend, int64_t rows, int64_t cols, DType dtype) {
  Rows made;
  made.buffer = backend.allocate(size_t(rows * cols) * dtype_size(dtype));
  made.matrix = made.buffer.matrix(rows, cols, dtype);
  return made;
}

Rows make_zero_rows(Backend& backend, int64_t rows, int64_t cols) {
  Rows made = make_rows(backend, rows, cols);
  backend.fill(made.matrix, 0);
  return made;
}

Rows f32_copy_of(Backend& backend, Matrix from) {
  return copy_in(backend, from, DType::kF32);
}

Rows first_rows(Backend& backend, Rows rows, int64_t count) {
  if (count == 0) return {};
  if (count == rows.matrix.rows) return rows;
  return copy_in(backend, rows.matrix.row_range(0, count), rows.matrix.dtype);
}

std::vector<NumberedView> views_of(std::span<const NumberedTensor> tensors) {
  std::vector<NumberedView> views;
  for (const NumberedTensor& tensor : tensors) views.push_back({tensor.number, tensor.tensor.view()});
  return views;
}

Rows upload_vector(Backend& backend, const TensorView& vector) {
  const Tensor values = to_f32(vector);
  Rows made = make_rows(backend, 1, int64_t(values.values.size()));
  backend.upload(values.values.data(), made.matrix);
  return made;
}

}  // namespace coppice
