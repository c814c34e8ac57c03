#pragma once
// How much memory a run will take, before it takes it: frozen weights, rows in flight, adapters with their
// optimizer state. Says whether a job fits, with the numbers. Thread: any.

#include <cstdint>
#include <string>

#include "worker/backbone/config.h"
#include "worker/peft/method.h"

namespace coppice {

struct MemoryModel {
  BackboneConfig config;
  int64_t weight_bytes = 0;  // packed, of all stages of this host
  int64_t pack_rows = 0;     // of a full pack
  int64_t packs = 1;         // in flight
  int64_t limit_bytes = 0;   // what may be used

  // Kept for the backward and for the work itself, of one row through all layers.
  int64_t row_bytes(bool checkpointing) const;
  int64_t packs_bytes(bool checkpointing = false) const;  // of all in flight, and the largest piece of logits
  static int64_t job_bytes(
      const MethodConfig& method);  // masters, moments, gradients, on the shard and on the stages, a commit
  // Throws kExhausted with the numbers where a job does not fit beside others_bytes of other jobs' adapters.
  void admit(const std::string& job, const MethodConfig& method, int64_t largest_micro_batch_rows,
             bool checkpointing, int64_t others_bytes) const;
  // Frozen weights packed for forward and backward, and the embedding's table.
  static int64_t estimate_weight_bytes(const BackboneConfig& config, DType compute);
};

int64_t available_memory_bytes();  // of this host now, within the limits of its control group

}  // namespace coppice
