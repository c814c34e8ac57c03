// Decoding with cached keys and values gives the logits of the whole sequence at once.

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/worker/every_hook.h"
#include "tests/unit/worker/stage_run.h"

namespace coppice {
namespace {

std::vector<int32_t> some_tokens(int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(int32_t(i * 11 % 37));
  return tokens;
}

// Log-probability of each token after the first, from one forward of all.
std::vector<float> scored(TestPipeline& pipeline, const TestJob& job, const std::vector<int32_t>& tokens) {
  TestJob sequence = job;
  sequence.training = false;
  sequence.lengths = {int64_t(tokens.size())};
  BuiltPack built = build_pack({{&sequence, 0}}, pipeline.stage(0).config());
  const auto virtual_rows = built.pack.segments[0].sequences[0].virtual_rows;
  std::copy(tokens.begin(), tokens.end(), built.tokens.begin() + virtual_rows);
  built.targets = {};
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    built.targets.rows.push_back(int32_t(virtual_rows + int64_t(i)));
    built.targets.targets.push_back(tokens[i + 1]);
    built.targets.weights.push_back(1);
  }
  Results results;
  pipeline.run(built, results);
  return results.at(job.name).log_probabilities.at(0);
}

float log_probability(const std::vector<float>& logits, int32_t token) {
  double sum = 0;
  for (float logit : logits) sum += std::exp(double(logit) - double(logits[size_t(token)]));
  return float(-std::log(sum));
}

void expect_decoder_agrees(const TinyBackbone& backbone, const TestJob& job, size_t prompt) {
  TestPipeline pipeline(backbone, {});
  pipeline.set_adapter(job);
  const std::vector<int32_t> tokens = some_tokens(12);
  const std::vector<float> expected = scored(pipeline, job, tokens);
  const auto decoder = pipeline.stage(0).decoder(job.method ? job.name : "", 32);
  for (size_t at = 0; at + 1 < tokens.size();) {
    const size_t count = at == 0 ? prompt : 1;
    const auto logits = decoder->append(std::span(tokens).subspan(at, count));
    at += count;
    ASSERT_EQ(int64_t(logits.size()), backbone.config().vocabulary);
    EXPECT_NEAR(log_probability(logits, tokens[at]), expected[at - 1], 1e-5) << job.name << " token " << at;
  }
}

TEST(DecoderTest, AgreesWithOneForwardOfAllTokens) {
  const TinyShape shapes[] = {
      {}, {.family = "qwen3", .head_dim = 8, .tied = true}, {.family = "mistral", .window = 3}};
  for (const TinyShape& shape : shapes) {
    const TinyBackbone backbone(shape);
    const BackboneConfig& config = backbone.config();
    for (size_t prompt : {1, 5}) {
      expect_decoder_agrees(backbone, {"bare", nullptr, {}, false, {}, -2}, prompt);
      expect_decoder_agrees(backbone, make_job("every", every_hook_config(config)), prompt);
      expect_decoder_agrees(
          backbone, make_job("prompt", R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4})", config),
          prompt);
    }
  }
}

TEST(DecoderTest, RefusesMoreThanItsCapacity) {
  const TinyBackbone backbone;
  TestPipeline pipeline(backbone, {});
  const auto decoder = pipeline.stage(0).decoder("", 4);
  decoder->append(some_tokens(3));
  EXPECT_EQ(message_of([&] { decoder->append(some_tokens(2)); }),
            "a sequence of 5 positions does not fit: 4 were asked for");
  EXPECT_EQ(decoder->append(some_tokens(1)).size(), 37u);
}

}  // namespace
}  // namespace coppice
