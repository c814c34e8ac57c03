#pragma once
// Keys and values of a sequence that grows, rotated and ready for attention, one pair of matrices a layer.
// As attention reads them: in the dtype of its products. Learned prefix pairs are not in it: they belong to
// the adapter. Thread: compute thread. Errors: kExhausted from the device.

#include <vector>

#include "worker/rows.h"

namespace coppice {

struct KvLayer {
  Rows keys, values;   // [capacity, kv_size]
  int64_t length = 0;  // rows that are filled
};

// capacity: rows of the sequence, virtual ones included.
inline std::vector<KvLayer> make_kv_cache(Backend& backend, int64_t layers, int64_t capacity, int64_t kv_size,
                                          DType compute) {
  std::vector<KvLayer> cache;
  for (int64_t l = 0; l < layers; ++l)
    cache.push_back(
        {make_rows(backend, capacity, kv_size, compute), make_rows(backend, capacity, kv_size, compute), 0});
  return cache;
}

}  // namespace coppice
