#pragma once
// The store of one shard (store/shard-K of a run folder): chunks of the tensors that it owns, by job and
// version, and nothing of HEADs, which are in the coordinator's store. Which versions may go is therefore
// said from there: release() when HEAD has moved, keep_only() when a job begins or goes on. Opening erases
// nothing. Keys as in the coordinator's store (proto/README.md).
//
// Thread: one at a time (the shard's store thread). Errors: as KvStore; kInvalid for a store of another
// format.

#include <cstdint>
#include <string>

#include "common/store/kv_store.h"
#include "coordinator/params/shard.h"

namespace coppice {

class ShardCheckpoint {
 public:
  explicit ShardCheckpoint(KvStore& store);  // store outlives this

  void write(const std::string& job, const ShardState& state);  // durable when it returns
  void release(const std::string& job, int64_t version);        // versions below it are needed no more
  void keep_only(const std::string& job, int64_t version);      // no other version of the job is needed

 private:
  KvStore& store_;
};

}  // namespace coppice
