#include "kernels/host_backend.h"

#include <algorithm>
#include <cstring>

#include "common/base/check.h"

namespace coppice {
namespace {

size_t bytes_of_row(const Matrix& x) {
  return size_t(x.cols) * dtype_size(x.dtype);
}

}  // namespace

void HostBackend::upload(const void* from, Matrix to) {
  const size_t bytes = bytes_of_row(to);
  const auto* source = static_cast<const std::byte*>(from);
  for (int64_t r = 0; r < to.rows && bytes > 0; ++r) {
    std::memcpy(row_bytes(to, r), source + size_t(r) * bytes, bytes);
  }
}

void HostBackend::download(Matrix from, void* to) {
  const size_t bytes = bytes_of_row(from);
  auto* target = static_cast<std::byte*>(to);
  for (int64_t r = 0; r < from.rows && bytes > 0; ++r) {
    std::memcpy(target + size_t(r) * bytes, row_bytes(from, r), bytes);
  }
}

void HostBackend::fill(Matrix x, float value) {
  CHECK(x.dtype == DType::kF32 || value == 0);
  for (int64_t r = 0; r < x.rows; ++r) {
    if (x.dtype == DType::kF32) {
      std::fill_n(f32_row(x, r), x.cols, value);
    } else if (x.cols > 0) {
      std::memset(row_bytes(x, r), 0, bytes_of_row(x));
    }
  }
}

void HostBackend::copy(std::span<const UnaryItem> items) {
  for (const UnaryItem& item : items) {
    CHECK(item.x.rows == item.y.rows && item.x.cols == item.y.cols);
    const size_t bytes = bytes_of_row(item.x);
    for (int64_t r = 0; r < item.x.rows && bytes > 0; ++r) {
      if (item.x.dtype == item.y.dtype) {
        std::memmove(row_bytes(item.y, r), row_bytes(item.x, r), bytes);
      } else if (item.x.dtype == DType::kF32 && item.y.dtype == DType::kBF16) {
        for (int64_t c = 0; c < item.x.cols; ++c) bf16_row(item.y, r)[c] = to_bf16(f32_row(item.x, r)[c]);
      } else {
        CHECK(item.x.dtype == DType::kBF16 && item.y.dtype == DType::kF32);
        for (int64_t c = 0; c < item.x.cols; ++c) f32_row(item.y, r)[c] = from_bf16(bf16_row(item.x, r)[c]);
      }
    }
  }
}

}  // namespace coppice
