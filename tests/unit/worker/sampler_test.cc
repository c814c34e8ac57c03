#include "worker/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/base/error.h"

namespace coppice {
namespace {


std::vector<int64_t> counts(const SamplerOptions& options, const std::vector<float>& logits, int64_t draws) {
  std::vector<int64_t> result(logits.size());
  Sampler sampler(options, 0);
  for (int64_t i = 0; i < draws; ++i) ++result[size_t(sampler.next(logits))];
  return result;
}

TEST(SamplerTest, TemperatureZeroTakesTheLikeliestAndTheFirstAmongEquals) {
  Sampler sampler({}, 0);
  EXPECT_EQ(sampler.next(std::vector<float>{0, 3, -1, 3}), 1);
  EXPECT_EQ(sampler.next(std::vector<float>{-5}), 0);
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = {1, 0, -1, -std::numeric_limits<float>::infinity()};
  for (const double temperature : {0.5, 1.0, 2.0}) {
    constexpr int64_t kDraws = 20000;
    const auto drawn = counts({.temperature = temperature, .seed = 7}, logits, kDraws);
    double total = 0;
    for (const float logit : logits) total += std::exp(double(logit) / temperature);
    for (size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(double(logits[i]) / temperature) / total;
      EXPECT_NEAR(double(drawn[i]) / kDraws, p, 5 * std::sqrt(p * (1 - p) / kDraws))
          << i << " at " << temperature;
    }
  }
}

TEST(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {0, float(std::log(2.0)), float(std::log(4.0)), 0};
  const auto kept = [&](double top_p) {
    const auto drawn = counts({.temperature = 1, .top_p = top_p, .seed = 3}, logits, 2000);
    std::vector<int> tokens;
    for (size_t i = 0; i < drawn.size(); ++i)
      if (drawn[i] > 0) tokens.push_back(int(i));
    return tokens;
  };
  EXPECT_EQ(kept(1e-9), (std::vector<int>{2}));
  EXPECT_EQ(kept(0.49), (std::vector<int>{2}));
  EXPECT_EQ(kept(0.51), (std::vector<int>{1, 2}));
  EXPECT_EQ(kept(0.76), (std::vector<int>{0, 1, 2}));  // the lower id among equals
  EXPECT_EQ(kept(1.0), (std::vector<int>{0, 1, 2, 3}));
}

TEST(SamplerTest, SeedAndSequenceSayWhatIsDrawn) {
  const std::vector<float> logits(50, 0.0f);
  const auto text = [&](uint64_t seed, uint64_t sequence) {
    Sampler sampler({.temperature = 1, .seed = seed}, sequence);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 20; ++i) tokens.push_back(sampler.next(logits));
    return tokens;
  };
  EXPECT_EQ(text(1, 0), text(1, 0));
  EXPECT_NE(text(1, 0), text(2, 0));
  EXPECT_NE(text(1, 0), text(1, 1));
}

TEST(SamplerTest, RefusesWhatIsOutOfRange) {
  EXPECT_THROW(Sampler({.temperature = -1}, 0), Error);
  EXPECT_THROW(Sampler({.temperature = std::nan("")}, 0), Error);
  EXPECT_THROW(Sampler({.top_p = 0}, 0), Error);
  EXPECT_THROW(Sampler({.top_p = 1.5}, 0), Error);
  Sampler sampler({}, 0);
  EXPECT_THROW(sampler.next(std::vector<float>{1, std::nanf("")}), Error);
}

}  // namespace
}  // namespace coppice
