#pragma once
// The rank of a shard: takes what the coordinator and the stages send, lets its Shard do the work, sends on
// what comes out. Every rule of when is the coordinator's.
//
// The life of a step: stages push GRADIENTS; when all of a version are there, GRADIENT_NORMS goes to the
// coordinator; UPDATE_ADAPTER comes back; the new version is published to the stages that the last
// ROUTE_ADAPTER named. COMMIT_ADAPTER copies the version of now to the store thread; COMMITTED says that it
// is durable. On rank 0 there is no store: the coordinator commits the state itself, with HEAD.
//
// A route begins a step anew: it sends the version of now, and gradients that were there are dropped.
// Messages of jobs that are not here (any more) are dropped, and gradients that come late: of a version
// before the one of now, or a second time (the same bits, from a step that was given up and computed again).
//
// Updates, publishing and commits are spans of the rank's trace, where there is one.
//
// Thread: compute thread. Errors: take() throws kInvalid for bytes that do not fit and for an update or a
// commit of another version than the one of now; what the store thread threw comes out of poll() or drain().

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/trace.h"
#include "common/store/kv_store.h"
#include "common/transport/block_pool.h"
#include "common/transport/transport.h"
#include "coordinator/params/shard.h"
#include "proto/message_kind.pb.h"

namespace coppice {

class ShardWorker {
 public:
  // store: of this shard alone. It and the trace outlive this.
  ShardWorker(Transport& transport, Backend& backend, int coordinator, KvStore* store = nullptr,
              Trace* trace = nullptr);
  ~ShardWorker();  // ends what was handed to the store thread, without telling it

  void take(const Message& message);  // of a kind for shards
  bool poll();                        // tells what has become durable; false where there was nothing to do
  void drain();                       // waits until all that was to be committed is durable, and tells it
  const Shard& shard() const { return shard_; }

 private:
  struct Route {
    int rank = 0;
    std::vector<int64_t> tensors;  // numbers
  };
  struct Entry {
    std::string method;  // JSON, handed on
    uint64_t seed = 0;
    std::vector<int64_t> tensors;  // numbers, as the state has them
    std::vector<Route> routes;
  };
  class Store;

  void add(const Message& message);
  void route(const Message& message);
  void gradients(const Message& message);
  void update(const Message& message);
  void commit(const Message& message);
  void release(const Message& message);
  void fetch(const Message& message);
  void drop(const Message& message);

  void publish(const std::string& job);
  void note(const char* name, double begin, const std::string& job);  // from begin to now
  void send_tensors(int to, proto::MessageKind kind, const std::string& job, const Entry& entry,
                    const std::vector<int64_t>& tensors);
  Entry* find(const std::string& job);
  Store& store(const std::string& job);

  Transport& transport_;
  Backend& backend_;
  Shard shard_;
  int coordinator_;
  std::shared_ptr<BlockPool> blocks_;  // that values travel in
  std::map<std::string, Entry> jobs_;
  std::unique_ptr<Store> store_;
  Trace* trace_;
};

}  // namespace coppice
