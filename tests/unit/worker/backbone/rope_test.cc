// Rotary frequencies against those of transformers (tests/oracle/make_rope_golden.py).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/base/error.h"
#include "worker/backbone/config.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;

TEST(RopeTest, FrequenciesAreThoseOfTransformers) {
  const Json golden = read_json_file(COPPICE_SOURCE_DIR "/tests/unit/worker/backbone/rope_golden.json");
  ASSERT_GE(golden.size(), 10u);
  for (const Json& entry : golden) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    const BackboneConfig config = parse_backbone_config(entry["config"], "config.json");
    const RopeFrequencies frequencies = rope_frequencies(config, entry["length"].get<int64_t>());
    const auto expected = entry["inverse"].get<std::vector<float>>();
    ASSERT_EQ(frequencies.inverse.size(), expected.size());
    ASSERT_EQ(int64_t(expected.size()), config.head_dim / 2);
    for (size_t i = 0; i < expected.size(); ++i) {
      // Torch's float32 power is good to about two units in the last place, more where it is raised twice.
      EXPECT_NEAR(frequencies.inverse[i] / expected[i], 1, 1.5e-6) << i;
    }
    EXPECT_FLOAT_EQ(frequencies.scale, entry["scale"].get<float>());
  }
}

Json config_with(const Json& keys) {
  Json json = {{"model_type", "llama"}, {"hidden_size", 64},      {"num_attention_heads", 2},
               {"vocab_size", 32},      {"num_hidden_layers", 1}, {"max_position_embeddings", 128}};
  json.update(keys);
  return json;
}

std::string refusal(const Json& keys) {
  try {
    parse_backbone_config(config_with(keys), "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(RopeTest, DynamicDependsOnTheLengthOnlyBeyondTheTrainedPositions) {
  const BackboneConfig config = parse_backbone_config(
      config_with({{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.0}}}}), "config.json");
  const auto at = [&](int64_t length) { return rope_frequencies(config, length).inverse; };
  EXPECT_EQ(at(1), at(128));
  EXPECT_NE(at(128), at(129));
  EXPECT_NE(at(129), at(500));
}

TEST(RopeTest, RefusesByName) {
  EXPECT_THAT(refusal({{"rope_parameters", {{"rope_type", "longrope"}}}}),
              HasSubstr("rope_parameters.rope_type"));
  EXPECT_THAT(refusal({{"rope_scaling", {{"type", "linear"}}}}), HasSubstr("rope_scaling.factor is missing"));
  EXPECT_THAT(refusal({{"rope_scaling", {{"type", "linear"}, {"factor", "2"}}}}),
              HasSubstr("rope_scaling.factor"));
  EXPECT_THAT(refusal({{"rope_scaling", {{"type", "linear"}, {"factor", 2}, {"mrope_section", {1}}}}}),
              HasSubstr("mrope_section"));
  EXPECT_THAT(refusal({{"rope_scaling", {{"type", "linear"}, {"rope_type", "dynamic"}, {"factor", 2}}}}),
              HasSubstr("must agree"));
  EXPECT_THAT(refusal({{"rope_parameters", {{"rope_theta", 5e5}}}, {"rope_theta", 1e4}}),
              HasSubstr("must agree"));
  EXPECT_THAT(refusal({{"rope_parameters", {{"partial_rotary_factor", 0.25}}}}),
              HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(refusal({{"rope_parameters",
                        {{"rope_type", "llama3"},
                         {"factor", 8},
                         {"low_freq_factor", 4},
                         {"high_freq_factor", 4},
                         {"original_max_position_embeddings", 64}}}}),
              HasSubstr("high_freq_factor is 4"));
  EXPECT_THAT(refusal({{"rope_parameters", {{"rope_theta", 0}}}}), HasSubstr("rope_theta is 0"));
  EXPECT_THAT(refusal({{"rope_parameters", "yarn"}}), HasSubstr("rope_parameters"));
  EXPECT_THAT(
      refusal({{"rope_parameters",
                {{"rope_type", "dynamic"}, {"factor", 2}, {"original_max_position_embeddings", 64}}}}),
      HasSubstr("original_max_position_embeddings is 64"));
}

}  // namespace
}  // namespace coppice
