#pragma once
// What the tests of frozen projections share: whole numbers, and matrices in and out of a backend.

#include <cmath>
#include <memory>
#include <vector>

#include "common/base/random.h"
#include "kernels/cpu/cpu_backend.h"

namespace coppice {

// Whole numbers, whose sums are exact in any order.
inline std::vector<float> whole_numbers(int64_t count, uint64_t key) {
  std::vector<float> values(size_t(count), 0.0f);
  Random random(key);
  for (float& value : values) value = std::floor(float(random.uniform()) * 17) - 8;
  return values;
}

struct LinearMatrices {
  explicit LinearMatrices(int threads) : pool(threads), backend(make_cpu_backend(pool)) {}

  Matrix put(const std::vector<float>& values, int64_t rows, int64_t cols) {
    buffers.push_back(backend->allocate(values.size() * sizeof(float)));
    const Matrix matrix = buffers.back().matrix(rows, cols);
    backend->upload(values.data(), matrix);
    return matrix;
  }
  std::vector<float> get(Matrix matrix) {
    std::vector<float> values(size_t(matrix.size()));
    backend->download(matrix, values.data());
    return values;
  }

  ThreadPool pool;
  std::unique_ptr<Backend> backend;
  std::vector<Buffer> buffers;
};

}  // namespace coppice
