#pragma once
// A rank that the coordinator leads: it becomes a stage or a shard by CONFIGURE, does the work of one until
// SHUT_DOWN, which it answers when all that it had to keep is durable. In one process many of them take turns
// on the main thread and share its device; under MPI each has a process.
//
// Thread: main. Errors: poll() lets none out. What goes wrong is told to the coordinator (RANK_FAILED); then
// the rank waits for SHUT_DOWN.

#include <memory>
#include <string>

#include "common/base/trace.h"
#include "common/store/kv_store.h"
#include "common/transport/transport.h"
#include "coordinator/device.h"
#include "coordinator/params/shard_worker.h"
#include "worker/stage_worker.h"

namespace coppice {

class Rank {
 public:
  explicit Rank(Transport& transport, Device* device = nullptr);  // null: it makes its own

  bool poll();  // takes in what has arrived and does one piece of work; false where there was nothing to do
  bool stopped() const { return stopped_; }

 private:
  void take(Message message);
  bool work();
  void configure(const Message& message);
  void become_stage(const proto::Configure::Stage& stage, proto::Configured& answer);
  void shut_down();
  void fail(const std::exception& error);
  void note_wait(bool worked, double since);
  void send_trace();

  Transport& transport_;
  Device* device_;
  std::unique_ptr<Device> own_device_;
  BackboneConfig config_;
  std::unique_ptr<Stage> stage_;
  std::unique_ptr<StageWorker> stage_worker_;
  std::unique_ptr<KvStore> store_;
  std::unique_ptr<ShardWorker> shard_worker_;
  Trace trace_;
  double idle_since_ = -1;  // seconds; negative: not idle
  bool failed_ = false, stopped_ = false;
};

std::string host_name();

}  // namespace coppice
