#include "coordinator/schedule/measure_costs.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "common/base/random.h"
#include "worker/stage.h"

namespace coppice {
namespace {

constexpr int64_t kSequences = 4, kTokens = 128, kRows = kSequences * kTokens;
constexpr int kRepetitions = 4;  // the first finds the caches cold

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One micro-batch whose backward reaches all blocks.
Pack make_measured_pack(const BackboneConfig& config) {
  Segment segment;
  segment.training = true;
  segment.lowest_layer = -1;
  segment.rows = kRows;
  const int64_t tokens = std::clamp<int64_t>(config.max_positions, 1, kTokens);
  for (int64_t row = 0; row < kRows; row += tokens) {
    segment.sequences.push_back({row, 0, std::min(tokens, kRows - row), int64_t(segment.sequences.size())});
  }
  Pack pack;
  pack.id = 1;
  pack.rows = kRows;
  pack.segments.push_back(std::move(segment));
  return pack;
}

// Half of all rows predict something.
PackTargets make_targets(const BackboneConfig& config) {
  PackTargets targets;
  for (int64_t row = 0; row < kRows; row += 2) {
    targets.rows.push_back(int32_t(row));
    targets.targets.push_back(int32_t(row % config.vocabulary));
    targets.weights.push_back(1.0f / float(kRows));
  }
  return targets;
}

Rows random_rows(Backend& backend, int64_t cols) {
  Random random(name_hash("measure_costs"));
  Tensor values({kRows, cols});
  for (float& value : values.values) value = float(random.normal());
  Rows rows = make_rows(backend, kRows, cols);
  backend.upload(reinterpret_cast<const std::byte*>(values.values.data()), rows.matrix);
  return rows;
}

}  // namespace

LayerCosts measure_costs(Backend& backend, const BackboneConfig& config, const std::string& folder,
                         DType compute) {
  Stage stage(backend, config, folder, {config.layers - 1, config.layers, compute});
  const Pack pack = make_measured_pack(config);
  const PackTargets targets = make_targets(config);
  const PackTokens tokens(size_t(kRows), 0);
  const bool whole = stage.options().holds_embedding();
  LayerCosts costs{std::numeric_limits<double>::max(), std::numeric_limits<double>::max()};
  for (int i = 0; i < kRepetitions; ++i) {
    Rows rows = whole ? Rows() : random_rows(backend, config.hidden);
    backend.wait();
    const double began = now_seconds();
    rows = whole ? stage.forward(pack, tokens) : stage.forward(pack, std::move(rows));
    backend.wait();
    const double forwarded = now_seconds();
    Rows drows;
    stage.loss(pack, targets, rows, false, &drows);
    backend.wait();
    const double lost = now_seconds();
    stage.backward(pack, std::move(drows));
    backend.wait();
    const double ended = now_seconds();
    stage.finish(pack);
    costs.block_seconds = std::min(costs.block_seconds, forwarded - began + ended - lost);
    costs.head_seconds = std::min(costs.head_seconds, lost - forwarded);
  }
  return costs;
}

}  // namespace coppice
