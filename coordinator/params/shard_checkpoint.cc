#include "coordinator/params/shard_checkpoint.h"

#include "common/base/check.h"
#include "coordinator/params/chunks.h"
#include "coordinator/params/stored.h"

namespace coppice {
namespace {

void check_name(const std::string& job) {
  if (job.empty() || job.find('/') != std::string::npos) {
    throw invalid("job \"{}\": a name without a slash is accepted", job);
  }
}

}  // namespace

ShardCheckpoint::ShardCheckpoint(KvStore& store) : store_(store) {
  stored::check_format(store_);
  if (store_.get(stored::kFormatKey)) return;
  Batch batch;
  batch.put(std::string(stored::kFormatKey), std::string(stored::kFormat));
  store_.write(batch, true);
}

// The chunks go unsynced, in batches; a synced batch after them makes all of them durable. The version before
// is still HEAD's: space is given back when it is released.
void ShardCheckpoint::write(const std::string& job, const ShardState& state) {
  check_name(job);
  stored::ChunkWriter chunks(store_);
  chunks.put(job, state);
  chunks.flush();
  Batch batch;
  batch.put(std::string(stored::kFormatKey), std::string(stored::kFormat));
  batch.to_be_continued = true;
  store_.write(batch, true);
}

// Synced, so that the store gives the space back now; HEAD has moved and is durable where it is.
void ShardCheckpoint::release(const std::string& job, int64_t version) {
  check_name(job);
  CHECK(version >= 0);
  Batch batch;
  batch.erase_range(stored::job_prefix(job), stored::state_prefix(job, version));
  store_.write(batch, true);
}

void ShardCheckpoint::keep_only(const std::string& job, int64_t version) {
  check_name(job);
  CHECK(version >= 0);
  const std::string kept = stored::state_prefix(job, version);
  Batch batch;
  batch.erase_range(stored::job_prefix(job), kept);
  batch.erase_range(stored::end_of(kept), stored::end_of(stored::job_prefix(job)));
  store_.write(batch, true);
}

}  // namespace coppice
