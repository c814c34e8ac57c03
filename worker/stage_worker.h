#pragma once
// The work of a stage's rank: takes plans, adapters and rows, lets its Stage compute, sends on what comes
// out. Which ranks stand before and behind it is all it knows of the pipeline.
//
// Backwards go before forwards, since they free memory, unless the stage behind computes beside this one and
// would run out of work meanwhile. Packs go through each direction in the order of their plans. On the last
// stage a pack's backward begins as soon as its loss is known. When a pack ends a job's step, the job's
// gradients are pushed after its backward, each to the shard that published its tensor.
//
// A version is in place when all tensors that live here have come, from whatever shards. A plan may be here
// before the versions it names, since it comes from another rank: its forward, and so those behind it, wait
// until they are in place. They do not wait for ever. A plan is sent after the word that makes the shards
// publish its version, no shard ever waits for a stage, and a stage that waits goes on to take what comes and
// to compute backwards. And none misses its version: the next one is made from the gradients of this one,
// and it is dropped when the packs of the job are done.
//
// Thread: compute thread. Errors: kInvalid for messages that do not fit, and those of Stage.

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/trace.h"
#include "common/transport/transport.h"
#include "worker/messages.h"
#include "worker/stage.h"

namespace coppice {

struct StageRanks {
  int coordinator = 0;
  std::optional<int> previous, next;  // absent on the first and the last stage
  bool in_turn = false;               // the stages are in one process and compute one after the other
};

class StageWorker {
 public:
  StageWorker(Transport& transport, Backend& backend, Stage& stage, const StageRanks& ranks, Trace& trace);

  void take(Message message);  // of a kind for stages
  bool work();                 // one forward or backward; false where none is ready

 private:
  struct InFlight {
    PackPlan plan;
    std::optional<Rows> forward_rows, backward_rows;  // arrived, not yet computed
  };
  struct Job {
    std::shared_ptr<const MethodConfig> method;
    size_t tensors = 0;            // that live here
    std::map<int64_t, int> owner;  // of each, by number: the rank of its shard
    int64_t version = -1;          // in place
    // Of the version that is arriving, perhaps from several shards.
    int64_t arriving_version = -1;
    std::vector<Message> arrived;
    std::map<int64_t, NumberedView> arriving;  // in those
  };

  void take_plan(const Message& message);
  void take_rows(Message& message);
  void initialize(const Message& message);
  void publish(Message message);
  void drop(const Message& message);
  void check_tensor(const Job& job, const std::string& name, const NumberedView& tensor) const;
  bool backward_ready() const;
  bool forward_ready() const;
  bool next_runs_dry() const;
  bool versions_in_place(const PackPlan& plan) const;
  void run_forward();
  void run_backward();
  void run_loss(InFlight& pack, const Rows& rows);
  void finish(uint64_t id);
  void push_gradients(const PackPlan& plan);
  bool backward_reaches(const PackPlan& plan) const;
  void send_rows(int to, uint64_t pack, bool backward, Rows rows);
  Job& job(const std::string& name, const std::string& method);

  Transport& transport_;
  Backend& backend_;
  Stage& stage_;
  StageRanks ranks_;
  Trace& trace_;
  std::map<uint64_t, InFlight> packs_;
  std::deque<uint64_t> forwards_, backwards_;  // in order, not yet computed
  int at_next_ = 0;                            // packs that went there and whose backward has not come back
  std::map<std::string, Job> jobs_;
};

}  // namespace coppice
