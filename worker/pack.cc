#include "worker/pack.h"

namespace coppice {

int64_t Pack::backward_rows(int64_t layer) const {
  int64_t count = 0;
  for (const Segment& segment : segments) {
    if (segment.lowest_layer > layer) break;
    count += segment.rows;
  }
  return count;
}

}  // namespace coppice
