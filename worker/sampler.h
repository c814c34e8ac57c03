#pragma once
// Chooses the next token from logits: the likeliest one, or a draw at a temperature from the smallest set of
// tokens whose probabilities reach top_p (nucleus sampling, Holtzman et al., 2020). A draw is Philox keyed by
// (seed; sampling; sequence) and counted by the tokens drawn, so a seed gives the same text wherever the
// logits have the same bits.
//
// Thread: one. Errors: kInvalid for options out of range; kFailed where a logit is not a number.

#include <cstdint>
#include <span>
#include <vector>

namespace coppice {

struct SamplerOptions {
  double temperature = 0;  // 0: the likeliest token, the lowest id among equals
  double top_p = 1;        // in (0, 1]
  uint64_t seed = 0;
};

class Sampler {
 public:
  // sequence: its number among those sampled with one seed.
  Sampler(const SamplerOptions& options, uint64_t sequence);

  int32_t next(std::span<const float> logits);

 private:
  int32_t draw(std::span<const float> logits, float largest);

  SamplerOptions options_;
  uint64_t key_;
  uint64_t drawn_ = 0;
  struct Candidate {
    double weight;
    int32_t token;
  };
  std::vector<Candidate> candidates_;
};

}  // namespace coppice
