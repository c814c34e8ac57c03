#pragma once
// Memory that will be read next, called into the second-level cache while a product is computed: weights come
// from memory once a pack, and with few rows nothing else hides how long that takes. Prefetching changes no
// result. Thread: any.

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace coppice {

// Pieces of so many bytes, `stride` bytes from one to the next: a strip of a product's rows calls for one.
struct Ahead {
  const std::byte* data = nullptr;
  int64_t pieces = 0, bytes = 0, stride = 0;

  struct Strip {
    const std::byte* next = nullptr;
    int64_t advance = 0;  // bytes for each step of the depth

    void step() {
      __builtin_prefetch(next, 0, 2);
      next += advance;
    }
  };
  // here: memory that is there, for when there is nothing to call for. To ask each time would cost more.
  Strip strip(int64_t number, int64_t depth, const void* here) const {
    if (number >= pieces) return {static_cast<const std::byte*>(here), 0};
    return {data + number * stride, (bytes + depth - 1) / depth};
  }
};

}  // namespace coppice
