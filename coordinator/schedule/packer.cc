#include "coordinator/schedule/packer.h"

#include <algorithm>

namespace coppice {
namespace {

// A row predicts the token that follows it; the last virtual row predicts the first token.
void add_sequence(const Example& example, const PackItem& item, PackSequence sequence, PackPlan& plan) {
  plan.tokens.insert(plan.tokens.end(), size_t(item.virtual_rows), 0);
  plan.tokens.insert(plan.tokens.end(), example.tokens.begin(), example.tokens.end());
  for (size_t i = 0; i < example.labels.size(); ++i) {
    const int64_t row = sequence.row + sequence.virtual_rows + int64_t(i) - 1;
    if (example.labels[i] == kIgnored || row < sequence.row) continue;
    plan.targets.rows.push_back(int32_t(row));
    plan.targets.targets.push_back(example.labels[i]);
    plan.targets.weights.push_back(item.target_weight);
  }
}

}  // namespace

PackedItems make_pack(uint64_t id, bool checkpointing, std::vector<PackItem> items) {
  std::stable_sort(items.begin(), items.end(),
                   [](const PackItem& a, const PackItem& b) { return a.lowest_layer < b.lowest_layer; });
  PackPlan plan;
  plan.pack.id = id;
  plan.pack.checkpointing = checkpointing;
  for (const PackItem& item : items) {
    Segment segment;
    segment.job = item.job;
    segment.version = item.version;
    segment.step = item.step;
    segment.micro_batch = item.micro_batch;
    segment.training = item.training;
    segment.lowest_layer = item.lowest_layer;
    segment.row = plan.pack.rows;
    int64_t in_step = item.batch().first_sequence;
    for (const Example* example : item.batch().examples) {
      const PackSequence sequence{plan.pack.rows, item.virtual_rows, int64_t(example->tokens.size()),
                                  in_step++, item.prefix_rows};
      add_sequence(*example, item, sequence, plan);
      plan.pack.rows += sequence.rows();
      segment.sequences.push_back(sequence);
    }
    segment.rows = plan.pack.rows - segment.row;
    plan.pack.segments.push_back(std::move(segment));
    plan.ends_step.push_back(item.ends_step);
    plan.adapter_here.push_back(false);
  }
  return {std::move(plan), std::move(items)};
}

}  // namespace coppice
