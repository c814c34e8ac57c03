#include "coordinator/schedule/planner.h"

#include <algorithm>

#include "common/base/error.h"

namespace coppice {
namespace {

// Of the head in blocks, if half of all rows have a target.
double head_cost(const BackboneConfig& config) {
  const double block =
      double(config.hidden) * double(2 * config.q_size() + 2 * config.kv_size() + 3 * config.intermediate);
  return 0.5 * double(config.hidden) * double(config.vocabulary) / block;
}

}  // namespace

std::vector<LayerRange> plan_stages(const BackboneConfig& config, int64_t stages) {
  if (stages < 1 || stages > config.layers) {
    throw invalid("stages is {}; a number from 1 to the backbone's {} layers is accepted", stages,
                  config.layers);
  }
  if (stages == 1) return {{0, config.layers}};
  const double head = head_cost(config);
  const int64_t before = stages - 1;  // stages before the last
  int64_t best_in_last = 1;
  double best = double(config.layers) + head;
  for (int64_t in_last = 1; in_last <= config.layers - before; ++in_last) {
    const int64_t largest_before = (config.layers - in_last + before - 1) / before;
    const double slowest = std::max(double(largest_before), double(in_last) + head);
    if (slowest < best) {
      best = slowest;
      best_in_last = in_last;
    }
  }
  std::vector<LayerRange> ranges;
  int64_t next = 0;
  for (int64_t stage = 0; stage < before; ++stage) {
    const int64_t left = config.layers - best_in_last - next, stages_left = before - stage;
    const int64_t count = (left + stages_left - 1) / stages_left;
    ranges.push_back({next, next + count});
    next += count;
  }
  ranges.push_back({next, config.layers});
  return ranges;
}

}  // namespace coppice
