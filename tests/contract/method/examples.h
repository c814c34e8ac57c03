#pragma once
// The examples of every registered method, as jobs of one pack. A method that is added to the registry is
// tested by its examples without an edit here.

#include <string>
#include <vector>

#include "tests/unit/worker/stage_run.h"

namespace coppice {

struct ExampleJob {
  MethodExample example;
  TestJob job;  // its tensors random

  // The same with the tensors of version 0.
  TestJob at_version_0(Stage& whole, uint64_t seed) const;
};

// "LORA0", "LORA1", ...: each with its own lengths of sequences.
std::vector<ExampleJob> example_jobs(const BackboneConfig& config);

// One micro-batch of each of the jobs, or several.
std::vector<MicroBatch> one_of_each(const std::vector<ExampleJob>& jobs, int64_t number = 0);

}  // namespace coppice
