#pragma once
// A run folder: store/ (RocksDB) with store/shard-K of each shard, metrics.jsonl, adapters/JOB/. Opens it for
// a run, compares what it knows of jobs with what is asked for now, and reads it for others while it runs.
// Thread: main. Errors: kBusy naming who has it, kInvalid naming the job and key that changed.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/store/kv_store.h"
#include "coordinator/job_run.h"

namespace coppice {

// Where shard K, from 1, keeps its store.
std::string shard_folder(const std::string& run_folder, int shard);

// The stores of a run folder's shards, for reading, each opened when it is asked for.
class ShardReaders {
 public:
  explicit ShardReaders(std::string run_folder) : run_folder_(std::move(run_folder)) {}
  KvReader& of(int shard);  // kNotFound where there is none
  ShardStores stores();     // of() as a CheckpointReader takes it; this outlives it

 private:
  std::string run_folder_;
  std::map<int, std::unique_ptr<KvReader>> readers_;
};

// For --dtype auto: what the jobs of a run folder began in, of those that matter, or of all where none does.
// Nothing where that is not one dtype, or there is no run folder.
std::optional<std::string> recorded_dtype(const std::string& path,
                                          const std::function<bool(const JobRecord&)>& matters);

class RunFolder {
 public:
  // Makes it where it is not there. Stores of shards that no HEAD names are removed.
  explicit RunFolder(const std::string& path);

  KvStore& store() { return *store_; }
  std::vector<StoredJob> jobs() const;  // in the order of submission, without metrics
  int64_t next_ordinal() const;
  std::vector<MetricRecord> take_metrics();  // of all jobs, ascending; they are not kept
  double seconds() const;                    // of training in earlier runs
  // What is stored of a job that is submitted again; nothing where it is new or to be run again. Its state is
  // read later, while this is there. retry_failed: a failed job goes on from its HEAD.
  std::optional<StoredJob> known(const PreparedJob& job, const Backbone& backbone, const std::string& dtype,
                                 const std::string& instruction_set, bool retry_failed) const;

 private:
  void remove_unnamed_shards(const std::vector<int>& named);

  std::string path_;
  std::unique_ptr<KvStore> store_;
  std::map<std::string, StoredJob> jobs_;
};

// Whether a run has been in the folder that --output names. Throws kInvalid where that cannot be said.
bool has_store(const std::string& path);

// Throws kInvalid where a folder is there that is none of a run, and would be overwritten, or that cannot be
// looked at.
void check_run_folder(const std::string& path);

// Throws kInvalid where a job that the folder at path knows is not the one that is submitted now, or cannot
// go on to the same bits.
void require_same_job(const std::string& path, const JobRecord& record, const PreparedJob& job,
                      const Backbone& backbone, const std::string& dtype, const std::string& instruction_set);

// Throws kInvalid where a job began on another backbone, dtype or instruction set: its bits would change.
void require_same_machine(const JobRecord& record, const Backbone& backbone, const std::string& dtype,
                          const std::string& instruction_set);

// For `jobs` and `export`, also while a run writes it. Throws kNotFound where path is no run folder.
class RunFolderReader {
 public:
  explicit RunFolderReader(const std::string& path);
  RunFolderReader(const RunFolderReader&) = delete;
  const CheckpointReader& checkpoints() const { return checkpoints_; }

 private:
  std::unique_ptr<KvReader> store_;
  ShardReaders shards_;
  CheckpointReader checkpoints_;
};
std::unique_ptr<RunFolderReader> open_run_folder(const std::string& path);

// As a shell takes it for one word.
std::string shell_word(const std::string& word);

// What a user is to call for the failed jobs of a folder, in quotes: the job file is theirs to name.
std::string retry_command(const std::string& path);

// Whether a process runs jobs in the folder now.
bool is_running(const std::string& path);

}  // namespace coppice
