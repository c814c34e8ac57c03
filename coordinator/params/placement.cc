#include "coordinator/params/placement.h"

#include <algorithm>
#include <numeric>

#include "common/base/check.h"

namespace coppice {

std::vector<int> place_tensors(const std::vector<Shape>& shapes, int shards) {
  CHECK(shards >= 1);
  std::vector<size_t> order(shapes.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return element_count(shapes[a]) > element_count(shapes[b]); });
  std::vector<int64_t> held(size_t(shards), 0);
  std::vector<int> places(shapes.size());
  for (const size_t tensor : order) {
    const auto least = std::min_element(held.begin(), held.end());  // the first of equals
    *least += element_count(shapes[tensor]);
    places[tensor] = int(least - held.begin());
  }
  return places;
}

}  // namespace coppice
