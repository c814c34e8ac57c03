#pragma once
// The rank of a shard: takes what the coordinator and the stages send, lets its Shard do the work, sends on
// what comes out. Every rule of when is the coordinator's.
//
// The life of a step: stages push GRADIENTS; when all of a version are there, GRADIENT_NORMS goes to the
// coordinator; UPDATE_ADAPTER comes back; the new version is published to the stages that the last
// ROUTE_ADAPTER named. COMMIT_ADAPTER copies the version of now to the store thread; COMMITTED says that it
// is durable. On rank 0 there is no store: the coordinator commits the state itself, with HEAD.
//
// Messages of jobs that are not here (any more) are dropped: gradients of a job that has left may come late.
//
// Thread: compute thread. Errors: take() throws kInvalid for bytes that do not fit, and what the store thread
// threw comes out of poll().

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/store/kv_store.h"
#include "common/transport/transport.h"
#include "coordinator/params/shard.h"

namespace coppice {

class ShardWorker {
 public:
  ShardWorker(Transport& transport, Backend& backend, int coordinator, KvStore* store = nullptr);
  ~ShardWorker();

  void take(const Message& message);  // of a kind for shards
  bool poll();                        // tells what has become durable; false where there was nothing to do
  void drain();                       // waits until all that was to be committed is durable, and tells it
  const Shard& shard() const { return shard_; }

 private:
  struct Entry;  // of a job: its routes, method, seed
  Transport& transport_;
  Shard shard_;
  int coordinator_;
  std::map<std::string, Entry> jobs_;
};

}  // namespace coppice
