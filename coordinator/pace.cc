#include "coordinator/pace.h"

namespace coppice {

void Pace::go(double now, const JobHead& head) {
  if (since_) return;
  since_ = now;
  if (version_ >= 0) return;
  version_ = head.version;
  tokens_ = head.tokens;
}

void Pace::rest(double now) {
  seconds_ = seconds(now);
  since_.reset();
}

double Pace::tokens_per_second(double now, const JobHead& head) const {
  const double ran = seconds(now);
  return ran > 0 ? double(head.tokens - tokens_) / ran : 0;
}

std::optional<double> Pace::seconds_left(double now, const JobHead& head, int64_t total_steps) const {
  const int64_t made = version_ < 0 ? 0 : head.version - version_;
  if (made <= 0) return std::nullopt;
  return seconds(now) / double(made) * double(total_steps - head.version);
}

}  // namespace coppice
