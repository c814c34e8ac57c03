#include "common/base/trace.h"

#include <chrono>
#include <utility>

namespace coppice {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Trace::begin(double offset_seconds) {
  on_ = true;
  offset_seconds_ = offset_seconds;
}

void Trace::add(std::string name, double begin, double end, uint64_t pack, std::string job) {
  if (!on_) return;
  spans_.push_back({std::move(name), begin + offset_seconds_, end - begin, pack, std::move(job)});
}

std::vector<TraceSpan> Trace::take() {
  return std::exchange(spans_, {});
}

}  // namespace coppice
