#pragma once
// Matrices of rows that own their memory: what blocks work on, what passes between stages, what is kept for a
// backward; and what the last stage reports of a segment. Thread: compute thread. Errors: kExhausted from the
// device.

#include <cstdint>
#include <span>
#include <vector>

#include "common/tensor/tensor.h"
#include "kernels/backend.h"

namespace coppice {

// [rows, cols]; between stages [rows, hidden], F32. The matrix may be the first rows of what the buffer
// holds.
struct Rows {
  Buffer buffer;
  Matrix matrix;
};

// Contents undefined. dtype: F32, or what products are computed in for rows that go from one product to the
// next, perhaps by way of an activation or attention.
Rows make_rows(Backend& backend, int64_t rows, int64_t cols, DType dtype = DType::kF32);
Rows make_zero_rows(Backend& backend, int64_t rows, int64_t cols);
Rows f32_copy_of(Backend& backend, Matrix from);
// The first `count` rows in a buffer of their own size: rows itself where that is all of them, empty where
// count is 0.
Rows first_rows(Backend& backend, Rows rows, int64_t count);
// A frozen vector (a norm's weight, a bias) as one F32 row.
Rows upload_vector(Backend& backend, const TensorView& vector);

// A tensor of an adapter by its number in the manifest.
struct NumberedTensor {
  int64_t number = 0;
  Tensor tensor;
};

// The same where it lies: in a message, in a NumberedTensor.
struct NumberedView {
  int64_t number = 0;
  TensorView tensor;
};
std::vector<NumberedView> views_of(std::span<const NumberedTensor> tensors);

// What the last stage reports of a segment.
struct SegmentLoss {
  double weighted_loss = 0;            // sum over its targets of weight * -log p, in order
  std::vector<float> log_probability;  // of each target, in order; only where asked for
};

}  // namespace coppice
