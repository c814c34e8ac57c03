#pragma once
// The ranks of a run: which rank is what, in one process over loopback or in many over MPI, and how they are
// brought up and sent home. N = 1 + shards + pipelines x stages: rank 0 decides, then come the shards, then
// the stages of one pipeline after the other.
//
// Thread: main. Errors: what a rank says of its own bringing up (its file, its store); kInvalid where ranks
// do not fit together.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/transport/transport.h"
#include "coordinator/device.h"
#include "coordinator/prepare.h"
#include "coordinator/rank.h"
#include "coordinator/schedule/planner.h"

namespace coppice {

struct ClusterShape {
  int shards = 0;  // 0: the coordinator holds the parameters itself
  int pipelines = 1;
  int stages = 1;

  int ranks() const { return 1 + shards + pipelines * stages; }
  std::vector<int> shard_ranks() const;  // {0} where the coordinator is the shard
  std::vector<int> stage_ranks(int pipeline) const;
  std::string named(int rank) const;  // "rank 4 (stage 1 of pipeline 0)", for messages
  std::string formula() const;        // "1 + 0 shards + 1 pipelines x 2 stages = 3"
};

// What every rank is told.
struct RankSettings {
  std::string output;  // the run folder
  std::vector<LayerRange> stages;
  ComputeOptions compute;  // with the dtype decided
  bool trace = false;
  double trace_seconds = 0;  // since the trace began
};

// What a rank has told of itself.
struct RankInfo {
  std::string host;
  int64_t available_bytes = 0;  // of the host's memory, before the rank took any
};

class Cluster {
 public:
  Cluster(Device& device, const ClusterShape& shape);        // in this process
  Cluster(Transport& transport, const ClusterShape& shape);  // one process a rank: transport is rank 0's
  ~Cluster();

  const ClusterShape& shape() const { return shape_; }
  Transport& transport() { return *transport_; }  // of rank 0
  bool poll();  // every other rank of this process once; false where none had anything to do

  // Makes the ranks what they are and waits until all are ready. warn: of a rank that has fewer cores than
  // threads. What they told of themselves, from rank 1 on.
  std::vector<RankInfo> configure(const RankSettings& settings, const Backbone& backbone,
                                  const std::string& instruction_set,
                                  const std::function<void(const std::string&)>& warn);
  // Sends all home, stages first, and waits for what they had to keep. other: takes what else still comes
  // (spans of a trace, commits). False where not all answered within timeout_s.
  bool shut_down(double timeout_s, const std::function<void(const Message&)>& other);

 private:
  void send_home(const std::vector<int>& ranks);

  ClusterShape shape_;
  std::vector<std::unique_ptr<Transport>> ends_;  // of loopback
  Transport* transport_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

// Refuses a rank that does not compute as rank 0 does, or finds another backbone.
void check_same(const std::string& rank, const proto::Configured& answer, const Backbone& backbone,
                const std::string& instruction_set);

// Throws what the rank has told, which is named.
[[noreturn]] void throw_rank_failed(const ClusterShape& shape, const Message& message);

}  // namespace coppice
