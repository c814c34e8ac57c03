#include "coordinator/schedule/planner.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "common/base/error.h"

namespace coppice {
namespace {

constexpr double kThreadFlops = 1e11;                  // of a pack: a few tenths of a second
constexpr int64_t kLeastRows = 512, kMostRows = 2048;  // in bfloat16 twice the least

double block_weights(const BackboneConfig& config) {
  return double(config.hidden) * double(2 * config.q_size() + 2 * config.kv_size() + 3 * config.intermediate);
}

double head_weights(const BackboneConfig& config) {
  return double(config.hidden) * double(config.vocabulary);
}

// Of the head in blocks, if half of all rows have a target.
double head_cost(const BackboneConfig& config) {
  return 0.5 * head_weights(config) / block_weights(config);
}

}  // namespace

std::vector<LayerRange> plan_stages(const BackboneConfig& config, int64_t stages) {
  return plan_stages(config, stages, {1, head_cost(config)});
}

std::vector<LayerRange> plan_stages(const BackboneConfig& config, int64_t stages, const LayerCosts& costs) {
  if (stages < 1 || stages > config.layers) {
    throw invalid("stages is {}; a number from 1 to the backbone's {} layers is accepted", stages,
                  config.layers);
  }
  if (stages == 1) return {{0, config.layers}};
  const double head = costs.head_seconds / costs.block_seconds;
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

std::vector<LayerRange> parse_split(std::string_view split, const BackboneConfig& config) {
  const auto refused = [&](std::string_view why) {
    return invalid("--split is {}: {}; the number of layers of each stage is accepted, {} in all, as in {}",
                   split, why, config.layers,
                   config.layers > 1
                       ? fmt::format("{},{}", config.layers - config.layers / 2, config.layers / 2)
                       : std::string("1"));
  };
  std::vector<LayerRange> ranges;
  int64_t next = 0;
  for (std::string_view left = split;;) {
    const std::string_view word = left.substr(0, left.find(','));
    int64_t layers = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), layers);
    if (error != std::errc() || end != word.data() + word.size() || layers < 1) {
      throw refused(fmt::format("\"{}\" is no number of at least 1", word));
    }
    if (layers > config.layers - next)
      throw refused(fmt::format("the backbone has {} layers", config.layers));
    ranges.push_back({next, next + layers});
    next += layers;
    if (word.size() == left.size()) break;
    left.remove_prefix(word.size() + 1);
  }
  if (next != config.layers) throw refused(fmt::format("it gives {} of {} layers", next, config.layers));
  return ranges;
}

int64_t default_pack_rows(const BackboneConfig& config, int64_t threads, DType compute) {
  const int64_t least = compute == DType::kBF16 ? 2 * kLeastRows : kLeastRows;
  const double row_flops = 4 * (double(config.layers) * block_weights(config) + head_weights(config));
  const double rows = double(threads) * kThreadFlops / row_flops;
  return int64_t(std::clamp(rows, double(least), double(kMostRows)));
}

}  // namespace coppice
