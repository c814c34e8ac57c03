#pragma once
// The rank of a stage: takes plans, adapters and rows from the transport, lets its Stage compute, sends on
// what comes out. Which ranks stand before and behind it is all it knows of the pipeline.
//
// Backwards go before forwards: they free memory. Packs go through each direction in the order of their
// plans. On the last stage a pack's backward begins as soon as its loss is known. When a pack ends a job's
// step, the job's gradients are pushed after its backward.
//
// Thread: compute thread. Errors: poll() lets nothing out; what goes wrong is told to the coordinator
// (RankFailed) and the worker stops.

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "common/transport/transport.h"
#include "worker/messages.h"
#include "worker/stage.h"

namespace coppice {

struct StageRanks {
  int coordinator = 0;
  std::optional<int> previous, next;  // absent on the first and the last stage
};

class StageWorker {
 public:
  StageWorker(Transport& transport, Backend& backend, Stage& stage, const StageRanks& ranks);

  bool
  poll();  // takes in what has arrived and does one forward or backward; false where there was nothing to do
  bool stopped() const { return stopped_; }

 private:
  struct InFlight {
    PackPlan plan;
    std::optional<Rows> forward_rows, backward_rows;  // arrived, not yet computed
  };

  void take(Message message);
  void take_rows(Message& message);
  void initialize(const Message& message);
  void publish(const Message& message);
  bool backward_ready() const;
  bool forward_ready() const;
  void run_forward();
  void run_backward();
  void run_loss(InFlight& pack, const Rows& rows);
  void finish(uint64_t id);
  void push_gradients(const PackPlan& plan);
  bool backward_reaches(const PackPlan& plan) const;
  void send_rows(int to, uint64_t pack, bool backward, Rows rows);
  std::shared_ptr<const MethodConfig> method(const std::string& job, const std::string& json);

  Transport& transport_;
  Backend& backend_;
  Stage& stage_;
  StageRanks ranks_;
  std::map<uint64_t, InFlight> packs_;
  std::deque<uint64_t> forwards_, backwards_;  // in order, not yet computed
  std::map<std::string, std::shared_ptr<const MethodConfig>> methods_;
  bool stopped_ = false;
};

}  // namespace coppice
