#include "worker/backbone/rotary.h"

#include <algorithm>
#include <cmath>

namespace coppice {

void RotaryTable::append(const RopeFrequencies& frequencies, int64_t position, float* cosines,
                         float* sines) const {
  for (int64_t i = 0; i < half_; ++i) {
    const float angle = float(position) * frequencies.inverse[size_t(i)];
    cosines[i] = std::cos(angle) * frequencies.scale;
    sines[i] = std::sin(angle) * frequencies.scale;
  }
}

void RotaryTable::rows(int64_t first_position, int64_t count, float* cosines, float* sines) {
  const int64_t end = first_position + count;
  if (config_.rope.type == Rope::Type::kDynamic) {
    const RopeFrequencies frequencies = rope_frequencies(config_, end);
    for (int64_t i = 0; i < count; ++i)
      append(frequencies, first_position + i, cosines + i * half_, sines + i * half_);
    return;
  }
  if (end > positions_) {
    const RopeFrequencies frequencies = rope_frequencies(config_, end);
    cosines_.resize(size_t(end * half_));
    sines_.resize(size_t(end * half_));
    for (; positions_ < end; ++positions_)
      append(frequencies, positions_, &cosines_[size_t(positions_ * half_)],
             &sines_[size_t(positions_ * half_)]);
  }
  std::copy_n(cosines_.begin() + first_position * half_, count * half_, cosines);
  std::copy_n(sines_.begin() + first_position * half_, count * half_, sines);
}

}  // namespace coppice
