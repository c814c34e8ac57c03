#pragma once
// Cosines and sines of rotary positions, computed on the host once per position and copied for each pack.
// Only the dynamic type depends on a sequence's length and is computed for each. As transformers computes
// them: angle, cosine and sine in float32. Thread: compute thread.

#include <cstdint>
#include <vector>

#include "worker/backbone/config.h"

namespace coppice {

class RotaryTable {
 public:
  explicit RotaryTable(const BackboneConfig& config) : config_(config), half_(config.head_dim / 2) {}

  // Writes [count, head_dim / 2] cosines and sines: of positions first_position... of a sequence that ends
  // with them.
  void rows(int64_t first_position, int64_t count, float* cosines, float* sines);

 private:
  void append(const RopeFrequencies& frequencies, int64_t position, float* cosines, float* sines) const;

  const BackboneConfig& config_;
  int64_t half_;
  int64_t positions_ = 0;  // in the table
  std::vector<float> cosines_, sines_;
};

}  // namespace coppice
