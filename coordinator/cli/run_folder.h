#pragma once
// A run folder: store/ (RocksDB), metrics.jsonl, adapters/JOB/. Opens it for a run, compares what it knows of
// jobs with what is asked for now, and reads it for others while it runs. Thread: main. Errors: kBusy naming
// who has it, kInvalid naming the job and key that changed.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/store/kv_store.h"
#include "coordinator/job_run.h"

namespace coppice {

class RunFolder {
 public:
  explicit RunFolder(const std::string& path);  // makes it where it is not there

  KvStore& store() { return *store_; }
  int64_t next_ordinal() const;
  std::vector<MetricRecord> metrics() const;  // of all jobs, ascending
  double seconds() const;                     // of training in earlier runs
  // What is stored of a job that is submitted again; nothing where it is new or to be run again.
  // retry_failed: a failed job goes on from its HEAD.
  std::optional<StoredJob> known(const PreparedJob& job, const Backbone& backbone, const std::string& dtype,
                                 const std::string& instruction_set, bool retry_failed) const;

 private:
  std::string path_;
  std::unique_ptr<KvStore> store_;
  std::map<std::string, StoredJob> jobs_;  // without their states, which known() reads
};

// For `jobs` and `export`, also while a run writes it. Throws kNotFound where path is no run folder.
std::unique_ptr<KvReader> open_run_folder(const std::string& path);

// Whether the process that last had the folder is alive on this host.
bool is_running(const std::string& path);

}  // namespace coppice
