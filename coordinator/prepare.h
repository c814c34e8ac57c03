#pragma once
// From what a user wrote to what can run: the backbone's description, then for each job its method, data and
// batches, all checked before anything starts. Thread: one an object; any number prepare jobs on one
// backbone. Errors: those of the parts, each naming job and field.

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/text/tokenizer.h"
#include "coordinator/jobs/batching.h"
#include "coordinator/jobs/dataset_cache.h"
#include "coordinator/jobs/job.h"
#include "coordinator/schedule/memory_model.h"
#include "worker/backbone/config.h"
#include "worker/peft/method.h"

namespace coppice {

struct Backbone {
  std::string path;
  BackboneConfig config;
  uint64_t fingerprint = 0;
  DType table = DType::kF32;           // the embedding's, as stored
  std::optional<Tokenizer> tokenizer;  // absent where the folder has none: then data must be input_ids
  std::shared_ptr<DatasetCache> datasets = std::make_shared<DatasetCache>();  // that jobs on it share
};
Backbone read_backbone(const std::string& path);

// Stays where it is: batching refers to data. One that waits for memory holds none of what is large, and is
// prepared anew when its turn has come.
struct PreparedJob {
  JobSpec spec;
  std::shared_ptr<const MethodConfig> method;
  JobData data;
  std::unique_ptr<Batching> batching;
  std::vector<Tensor>
      initial;  // from init_adapter, by number in the manifest; empty: made where the weights are
  int64_t total_steps = 0;
  JobMemory memory;  // that it takes when it runs

  bool loaded() const { return batching != nullptr; }
  void unload();  // lets go of examples, batches and initial values; what it knows of them stays
  uint64_t data_fingerprint() const { return data.train->fingerprint ^ data.eval->fingerprint << 1; }
};
// Throws kExhausted where its data would take more than most_data_bytes beside what others hold of it.
std::unique_ptr<PreparedJob> prepare_job(const JobSpec& spec, const Backbone& backbone,
                                         int64_t most_data_bytes = INT64_MAX);

// Prepares jobs whose data together take at most so much memory (64 MiB are always granted), what they share
// counted once: where those that it has made hold half of it, further ones come unloaded.
class Preparation {
 public:
  Preparation(const Backbone& backbone, int64_t most_bytes);
  std::unique_ptr<PreparedJob> prepare(const JobSpec& spec);

 private:
  const Backbone& backbone_;
  int64_t most_bytes_, held_bytes_ = 0;
  std::set<int64_t> held_;  // datasets among these bytes
};

}  // namespace coppice
