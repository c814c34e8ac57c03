#pragma once
// What a job trains and is evaluated on. Files are read by way of the cache, so that jobs on one file share
// what it gives; and jobs with the same data.eval_split and seed what that holds out, and what it leaves.
// Thread: any. Errors: those of read_dataset, and kInvalid for a split that leaves nothing to train on.

#include <cstdint>
#include <memory>

#include "coordinator/jobs/dataset.h"
#include "coordinator/jobs/dataset_cache.h"
#include "coordinator/jobs/job.h"

namespace coppice {

// Never null. The evaluation set: from its file, or split off the training set (seeded, deterministic); empty
// where neither is asked for.
struct JobData {
  std::shared_ptr<const Dataset> train = std::make_shared<Dataset>();
  std::shared_ptr<const Dataset> eval = std::make_shared<Dataset>();
};

// most_bytes: of each of the two that is not in memory already.
JobData read_job_data(const JobSpec& spec, DatasetCache& cache, const Tokenizer* tokenizer,
                      int64_t vocabulary, bool virtual_rows, int64_t most_bytes = INT64_MAX);

}  // namespace coppice
