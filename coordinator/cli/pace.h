#pragma once
// Tokens a second and time left of a job, from what it did since it was first seen in this process. Thread:
// main.

#include <map>
#include <optional>
#include <string>

#include "coordinator/engine.h"

namespace coppice {

class Pace {
 public:
  void look(const Engine& engine);  // notes jobs that are new
  double tokens_per_second(const Engine& engine, const JobRun& run) const;
  std::optional<double> seconds_left(const Engine& engine, const JobRun& run) const;  // none where unknown

 private:
  struct Seen {
    double seconds = 0;
    int64_t tokens = 0, version = 0;
  };
  std::map<std::string, Seen> first_;
};

}  // namespace coppice
