#include "coordinator/cli/pace.h"

namespace coppice {

void Pace::look(const Engine& engine) {
  if (engine.jobs().size() == first_.size()) return;
  for (const auto& [name, run] : engine.jobs()) {
    first_.try_emplace(name, Seen{engine.seconds(), run->head.tokens, run->head.version});
  }
}

double Pace::tokens_per_second(const Engine& engine, const JobRun& run) const {
  const auto seen = first_.find(run.name());
  if (seen == first_.end()) return 0;
  const double until = run.ended() ? run.head.seconds : engine.seconds();
  if (until <= seen->second.seconds) return 0;
  return double(run.head.tokens - seen->second.tokens) / (until - seen->second.seconds);
}

std::optional<double> Pace::seconds_left(const Engine& engine, const JobRun& run) const {
  const auto seen = first_.find(run.name());
  if (run.ended() || seen == first_.end()) return std::nullopt;
  const int64_t made = run.head.version - seen->second.version;
  if (made <= 0) return std::nullopt;
  return (engine.seconds() - seen->second.seconds) / double(made) *
         double(run.record.total_steps - run.head.version);
}

}  // namespace coppice
