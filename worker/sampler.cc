#include "worker/sampler.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "common/base/error.h"
#include "common/base/random.h"

namespace coppice {

Sampler::Sampler(const SamplerOptions& options, uint64_t sequence)
    : options_(options), key_(stream_key(options.seed, Purpose::kSampling, {sequence})) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    throw invalid("temperature is {}; a number of at least 0 is accepted", options.temperature);
  }
  if (!(options.top_p > 0) || options.top_p > 1) {
    throw invalid("top_p is {}; a number above 0 and of at most 1 is accepted", options.top_p);
  }
}

int32_t Sampler::next(std::span<const float> logits) {
  CHECK(!logits.empty());
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) throw failed("the logit of token {} is not a number", i);
    if (logits[i] > logits[best]) best = i;
  }
  if (!std::isfinite(logits[best])) throw failed("the logit of token {} is {}", best, logits[best]);
  return options_.temperature == 0 ? int32_t(best) : draw(logits, logits[best]);
}

int32_t Sampler::draw(std::span<const float> logits, float largest) {
  candidates_.clear();
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((double(logits[i]) - double(largest)) / options_.temperature);
    if (weight == 0) continue;
    candidates_.push_back({weight, int32_t(i)});
    total += weight;
  }
  if (options_.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
      return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
    });
    double kept = 0;
    size_t count = 0;
    while (count < candidates_.size() && kept < options_.top_p * total) kept += candidates_[count++].weight;
    candidates_.resize(count);
    total = kept;
  }
  const auto words = philox(key_, {uint32_t(drawn_), uint32_t(drawn_ >> 32), 0, 0});
  ++drawn_;
  const uint64_t bits = (uint64_t(words[0]) << 32 | words[1]) >> 11;
  double left = double(bits) * 0x1p-53 * total;
  for (const Candidate& candidate : candidates_) {
    if (left < candidate.weight) return candidate.token;
    left -= candidate.weight;
  }
  return candidates_.back().token;  // rounding has used up the sum
}

}  // namespace coppice
