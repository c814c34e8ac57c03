#pragma once
// A run folder with everything that works on it: device, ranks, engine. What `run` and `serve` have in
// common. Thread: main. Errors: kInvalid and the like while it is brought up, before anything is written;
// then those of Engine::poll.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/cli/launch.h"
#include "coordinator/cli/progress.h"
#include "coordinator/cli/run_folder.h"
#include "coordinator/cli/stop_on_signal.h"
#include "coordinator/engine.h"
#include "coordinator/trace_file.h"

namespace coppice {

struct SessionOptions {
  std::string output;
  int64_t stages = 1, pipelines = 1, param_ranks = 0;
  std::string split;         // layers of each stage, "4,5,3"; empty: by measured cost
  int64_t pack_rows = 0;     // 0: default_pack_rows
  int64_t memory_bytes = 0;  // that may be used of each host's; 0: what is available
  std::string trace;         // file; empty: none
  ComputeOptions compute;
};

class Session {
 public:
  // Takes nothing of the run folder yet: what is asked for is checked first. goes_on: whether a job that the
  // folder knows will; with --dtype auto all go on in the dtype in which those began.
  Session(const SessionOptions& options, Launch& launch, Backbone backbone,
          const std::function<bool(const JobRecord&)>& goes_on);
  ~Session();

  const Backbone& backbone() const { return backbone_; }
  Device& device() { return device_; }
  int64_t available_bytes() const { return available_bytes_; }  // of this host's memory, as asked for
  MemoryModel memory_before_start() const;                      // of this host, where all ranks are here

  RunFolder& open_folder();  // from here on this process has the folder
  Engine& start();           // brings the ranks up
  // Until the engine has ended, or a signal has stopped it; then all ranks are sent home. beside: called
  // between, says whether it did something; keep_on: also while all jobs have ended.
  void work(
      Progress& progress, const std::function<bool()>& beside = [] { return false; }, bool keep_on = false);

 private:
  int64_t credits() const;
  int64_t pack_rows() const;
  MemoryModel empty_model() const;
  void add_rank(MemoryModel& model, int rank) const;
  std::vector<MemoryModel> models(const std::vector<RankInfo>& ranks) const;
  void loop(Progress& progress, const std::function<bool()>& beside, bool keep_on);

  SessionOptions options_;
  Launch& launch_;
  ClusterShape shape_;
  Device device_;
  Backbone backbone_;
  double trace_began_;
  int64_t available_bytes_;  // before anything was loaded
  std::unique_ptr<Cluster> cluster_;
  std::vector<LayerRange> ranges_;
  std::unique_ptr<TraceFile> trace_;
  std::unique_ptr<RunFolder> folder_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace coppice
