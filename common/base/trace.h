#pragma once
// What a rank did and when, in spans, for the trace that `--trace` writes. Off by default: then it keeps
// nothing. Thread: one.

#include <cstdint>
#include <string>
#include <vector>

namespace coppice {

double steady_seconds();  // this process's monotonic clock

struct TraceSpan {
  std::string name;  // forward, backward, wait, update, publish, commit, ...
  double begin = 0;  // seconds
  double seconds = 0;
  uint64_t pack = 0;  // where there is one
  std::string job;    // where there is one
};

class Trace {
 public:
  bool on() const { return on_; }
  void begin(double offset_seconds);  // switches it on; added to every time, so that ranks agree on a clock
  void add(std::string name, double begin, double end, uint64_t pack = 0, std::string job = {});
  std::vector<TraceSpan> take();  // since the last call
  size_t size() const { return spans_.size(); }

 private:
  bool on_ = false;
  double offset_seconds_ = 0;
  std::vector<TraceSpan> spans_;
};

}  // namespace coppice
