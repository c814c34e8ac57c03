#pragma once
// What a run folder's store holds, and how: job records, adapter states, metrics. A commit is atomic: tensors
// as chunks first, then one synced batch that moves the job's HEAD, carries its metrics records up to there,
// and erases the chunks of the HEAD before. HEAD never goes back. HEAD says of each tensor where its chunks
// are: here, or in the store of a shard, which has made them durable before. Keys, formats and the order of
// writes are written down in proto/README.md.
//
// Thread: the store thread (one at a time). A CheckpointReader also from `jobs` and `export` on a live store.
// Errors: as KvStore; a value that is damaged: kInvalid naming its key.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/io/json.h"
#include "common/store/kv_store.h"
#include "coordinator/params/shard.h"

namespace coppice {

enum class JobState { kQueued, kRunning, kPaused, kDone, kFailed, kCancelled };
std::string_view job_state_name(JobState state);  // "queued", ...

// What is known of a job beside its tensors.
struct JobRecord {
  std::string name;     // no slash
  int64_t ordinal = 0;  // order of submission
  Json keys;            // JobSpec::keys
  Json method;          // hf_config() of its method: what export writes, also when it came from init_adapter
  JobState state = JobState::kQueued;
  std::string reason;  // of a failure
  int64_t total_steps = 0;
  int64_t trainable_parameters = 0;
  std::string backbone;  // path as given
  uint64_t backbone_fingerprint = 0, data_fingerprint = 0;
  std::string dtype;            // "float32", "bfloat16"
  std::string instruction_set;  // of Backend
};

// Where a job stands: written with every commit of a state.
struct JobHead {
  int64_t version = 0;     // updates made
  int64_t tokens = 0;      // trained on, all steps
  double loss = 0;         // of the last step
  double eval_loss = 0;    // of the last evaluation, at version evaluated
  int64_t evaluated = -1;  // -1: none yet
  double seconds = 0;      // of training, over all runs
};

// A line of metrics.jsonl.
struct MetricRecord {
  int64_t sequence = 0;  // order within the job; >= 0
  std::string line;      // JSON, as in the file
};

// A version that shards have made durable.
struct StoredElsewhere {
  int64_t version = 0;
  std::vector<ShardTensor> tensors;  // of all shards, by number; each says its shard, 1 or more
  std::vector<int> moments;          // of each, how many
};

// At most one of state and elsewhere; without both only record and metrics change. Where HEAD is at this
// version already its tensors stay where it says they are.
struct Commit {
  JobRecord record;
  JobHead head;
  std::optional<ShardState> state;    // to be stored here
  std::vector<MetricRecord> metrics;  // since the last commit
  std::optional<StoredElsewhere> elsewhere = std::nullopt;
};

// Finds the store of a shard, from 1; opens it where it must. Throws kNotFound where there is none.
using ShardStores = std::function<KvReader&(int shard)>;

class CheckpointReader {
 public:
  // Without shards a state of which HEAD names one is refused.
  explicit CheckpointReader(KvReader& store, ShardStores shards = nullptr);
  std::vector<JobRecord> records() const;  // by ordinal
  std::optional<JobRecord> record(const std::string& job) const;
  std::optional<JobHead> head(const std::string& job) const;  // none before the first commit of a state
  // At HEAD, tensors in its order: where a writer moves it meanwhile, at the HEAD of then, which is not older
  // than what head() said.
  ShardState state(const std::string& job) const;
  std::vector<int> shards() const;                                  // that HEADs name, ascending
  std::vector<MetricRecord> metrics(const std::string& job) const;  // by sequence
  size_t live_bytes() const;  // of all that commits have written here and not replaced

 private:
  ShardState read_state(const std::string& job, bool again) const;

  KvReader& store_;
  ShardStores shards_;
};

class CheckpointWriter {
 public:
  explicit CheckpointWriter(KvStore& store);  // collects what a crash has left behind
  // Durable when it returns; without sync when a later one with it has returned, and never without those
  // before.
  void commit(const Commit& commit, bool sync = true);

 private:
  KvStore& store_;
};

}  // namespace coppice
