#pragma once
// How fast a job goes on, from what it did while it ran in this process: the time that it was queued, was
// read in or was paused does not count. Times are seconds of any one clock. Thread: one.

#include <cstdint>
#include <optional>

#include "coordinator/params/checkpoint.h"

namespace coppice {

class Pace {
 public:
  void go(double now, const JobHead& head);                         // it runs from now on, from here
  void rest(double now);                                            // it does not, until go()
  double tokens_per_second(double now, const JobHead& head) const;  // 0 where it has not run
  std::optional<double> seconds_left(double now, const JobHead& head, int64_t total_steps) const;

 private:
  double seconds(double now) const { return seconds_ + (since_ ? now - *since_ : 0); }

  double seconds_ = 0;                 // that it ran, before since
  std::optional<double> since_;        // it runs
  int64_t tokens_ = 0, version_ = -1;  // where it stood when it first ran here
};

}  // namespace coppice
