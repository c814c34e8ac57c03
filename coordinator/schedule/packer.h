#pragma once
// Puts chosen micro-batches together into a pack: orders the segments so that those whose backward reaches
// deeper come first, lays the sequences out, and writes down token ids and targets. Which micro-batches,
// others decide. Thread: any.

#include <memory>
#include <string>
#include <vector>

#include "coordinator/jobs/batching.h"
#include "worker/messages.h"

namespace coppice {

// A micro-batch with what a stage must know of its job.
struct PackItem {
  std::string job;
  int64_t version = 0;
  int64_t step = 0;
  bool training = false;
  bool ends_step = false;
  int64_t lowest_layer = kNoBackward;
  int64_t virtual_rows = 0;  // before each sequence
  int64_t prefix_rows = 0;   // positions start behind them
  float target_weight = 1;   // 1 / number of targets of the step
  std::shared_ptr<const StepPlan> plan;
  int64_t micro_batch = 0;  // its number in the plan

  const MicroBatch& batch() const { return plan->micro_batches[size_t(micro_batch)]; }
};

struct PackedItems {
  PackPlan plan;
  std::vector<PackItem> items;  // in the order of the plan's segments
};

// items: those of one job in micro-batch order. The plan is the same for all stages: what a stage alone is
// told (adapter_here), whoever sends it there fills in.
PackedItems make_pack(uint64_t id, bool checkpointing, std::vector<PackItem> items);

}  // namespace coppice
