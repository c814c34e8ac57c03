#pragma once
// Packs and stages for tests: jobs with random adapters, their micro-batches, and a run of packs through a
// backbone that is split over any number of stages.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/thread_pool.h"
#include "kernels/registry.h"
#include "tests/unit/worker/tiny_backbone.h"
#include "worker/stage.h"

namespace coppice {

struct TestJob {
  std::string name;
  std::shared_ptr<const MethodConfig> method;  // null: the bare backbone
  std::map<std::string, Tensor> tensors;       // by name of the manifest
  bool training = true;
  std::vector<int64_t> lengths = {5, 3};  // tokens of the sequences of a micro-batch
  int64_t lowest_layer = -2;              // -2: the method's own

  int64_t lowest() const;
};

// A job with LoRA, (IA)3, ... from the keys of its method, its tensors random.
TestJob make_job(const std::string& name, const std::string& method_keys, const BackboneConfig& config);
// The same around any config.
TestJob make_job(const std::string& name, std::shared_ptr<const MethodConfig> method);

// One micro-batch of a job, its tokens random by job, number and length; a target for every second token and
// the last.
struct MicroBatch {
  const TestJob* job = nullptr;
  int64_t number = 0;
};

struct BuiltPack {
  Pack pack;
  PackTokens tokens;
  PackTargets targets;
};
// Segments by lowest layer, else in the given order.
BuiltPack build_pack(const std::vector<MicroBatch>& micro_batches, const BackboneConfig& config,
                     bool checkpointing = false, uint64_t id = 1);

struct RunOptions {
  std::string backend = "ref";
  int threads = 1;
  int stages = 1;
  bool checkpointing = false;
  DType compute = DType::kF32;
  Backend* device = nullptr;  // instead of test_backend()'s
};

// What is to be equal, bit for bit.
struct JobResult {
  std::vector<double> losses;  // of each micro-batch
  std::vector<std::vector<float>> log_probabilities;
  std::map<std::string, std::vector<float>> gradients;  // by tensor
};
using Results = std::map<std::string, JobResult>;

// One of each kind and number of threads for the whole program: the start-up check of a backend takes longer
// than a test.
Backend& test_backend(const std::string& name, int threads = 1);

// The stages of one backbone, with the adapters of jobs.
class TestPipeline {
 public:
  TestPipeline(const TinyBackbone& backbone, const RunOptions& options);

  Backend& backend() { return backend_; }
  Stage& stage(size_t number) { return *stages_[number]; }
  size_t stages() const { return stages_.size(); }
  void set_adapter(const TestJob& job);
  void run(const BuiltPack& pack, Results& results);  // forward, loss, backward, finish
  void take_gradients(const TestJob& job, Results& results);

 private:
  Backend& backend_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

// All of it: the packs one after the other, then every job's gradients.
Results run_packs(const TinyBackbone& backbone, const RunOptions& options,
                  const std::vector<std::vector<MicroBatch>>& packs);

// Bits of both are equal: a message for what is not.
testing::AssertionResult same_bits(const JobResult& a, const JobResult& b);

}  // namespace coppice
