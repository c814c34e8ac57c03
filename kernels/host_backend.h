#pragma once
// What every backend in host memory shares: its buffers, moving bytes in and out, filling and copying.
// Operators are done when they return, so wait() has nothing to do. The operators themselves are the derived
// class's.
//
// Thread: compute thread; the pool's threads run the tasks of one operator at a time. Errors: kExhausted from
// allocate().

#include "kernels/backend.h"
#include "kernels/host_memory.h"

namespace coppice {

class HostBackend : public Backend {
 public:
  Buffer allocate(size_t bytes) override { return {this, memory_.take(bytes), bytes}; }
  size_t allocated_bytes() const override { return memory_.in_use_bytes(); }
  size_t peak_bytes() const override { return memory_.peak_bytes(); }
  void upload(const void* from, Matrix to) override;
  void download(Matrix from, void* to) override;
  void fill(Matrix x, float value) override;  // F32; other dtypes with 0 only
  void wait() override {}
  void copy(std::span<const UnaryItem> items) override;

 protected:
  // name as in the registry; pool outlives the backend.
  HostBackend(const std::string& name, ThreadPool& pool) : memory_(name), pool_(pool) {}
  ThreadPool& pool() { return pool_; }

 private:
  void release(std::byte* data, size_t bytes) override { memory_.give_back(data, bytes); }

  HostMemory memory_;
  ThreadPool& pool_;
};

// The first element of a row in host memory.
inline std::byte* row_bytes(const Matrix& x, int64_t row) {
  return x.data + size_t(row * x.stride) * dtype_size(x.dtype);
}
inline float* f32_row(const Matrix& x, int64_t row) {
  return x.as<float>() + row * x.stride;
}
inline uint16_t* bf16_row(const Matrix& x, int64_t row) {
  return x.as<uint16_t>() + row * x.stride;
}
inline int32_t* i32_row(const Matrix& x, int64_t row) {
  return x.as<int32_t>() + row * x.stride;
}

// A row of a matrix that is F32 or BF16, by the type of its elements.
template <typename Element>
Element* row_of(const Matrix& x, int64_t row) {
  return x.as<Element>() + row * x.stride;
}
inline bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16;
}

}  // namespace coppice
