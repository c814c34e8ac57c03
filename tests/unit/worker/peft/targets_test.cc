#include "worker/peft/targets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/worker/peft/configs.h"

namespace coppice {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::vector<std::string> selected(const std::string& keys, TargetOptions options = {.layers = true}) {
  Keys reader(parse_json(keys, "keys"), "method");
  std::vector<std::string> paths;
  for (const Module& module : read_targets(reader, small_llama(), options).modules)
    paths.push_back(module.path);
  reader.finish();
  return paths;
}

std::string refused(const std::string& keys, TargetOptions options = {.layers = true}) {
  try {
    selected(keys, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(TargetsTest, MatchesWholePartsOfPaths) {
  EXPECT_THAT(selected(R"({"target_modules": ["1.self_attn.q_proj"]})"),
              ElementsAre("model.layers.1.self_attn.q_proj"));
  EXPECT_THAT(selected(R"({"target_modules": ["lm_head"]})"), ElementsAre("lm_head"));
  EXPECT_EQ(selected(R"({"target_modules": ["q_proj", "q_proj"]})").size(), 12u);
}

TEST(TargetsTest, GivesModulesInCanonicalOrder) {
  EXPECT_THAT(selected(R"({"target_modules": ["lm_head", "down_proj", "q_proj"], "layers_to_transform": []})")
                  .front(),
              "model.layers.0.self_attn.q_proj");
  EXPECT_THAT(selected(R"({"target_modules": ["down_proj", "q_proj"], "layers_to_transform": [4, 0]})"),
              ElementsAre("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj",
                          "model.layers.4.self_attn.q_proj", "model.layers.4.mlp.down_proj"));
}

TEST(TargetsTest, StringsAreRegularExpressionsForTheWholePath) {
  EXPECT_THAT(selected(R"({"target_modules": "model\\.layers\\.1[01]\\.self_attn\\.k_proj"})"),
              ElementsAre("model.layers.10.self_attn.k_proj", "model.layers.11.self_attn.k_proj"));
  EXPECT_EQ(selected(R"({"target_modules": "ALL-linear"})").size(), 84u);
}

TEST(TargetsTest, StringThatIsAnEndingCountsAsAListOfOne) {
  EXPECT_EQ(selected(R"({"target_modules": "q_proj"})").size(), 12u);
  Keys keys(parse_json(R"({"target_modules": "q_proj"})", "keys"), "method");
  EXPECT_EQ(read_targets(keys, small_llama(), {}).target_modules, Json::array({"q_proj"}));
}

TEST(TargetsTest, LayersLeaveOutWhatHasNoNumber) {
  EXPECT_THAT(selected(R"({"target_modules": ["lm_head", "v_proj"], "layers_to_transform": 3})"),
              ElementsAre("model.layers.3.self_attn.v_proj"));
  EXPECT_THAT(
      selected(
          R"({"target_modules": ["v_proj"], "layers_to_transform": 3, "layers_pattern": ["h", "layers"]})"),
      ElementsAre("model.layers.3.self_attn.v_proj"));
}

TEST(TargetsTest, RefusesWhatSelectsNothing) {
  EXPECT_THAT(refused(R"({"target_modules": ["q_porj"]})"),
              AllOf(StartsWith("method.target_modules names \"q_porj\""), HasSubstr("did you mean q_proj?")));
  EXPECT_THAT(refused(R"({"target_modules": ["q_proj", "nope"]})"),
              HasSubstr("\"nope\", which is no module"));
  EXPECT_THAT(refused(R"({"target_modules": ".*\\.12\\..*"})"), HasSubstr("which is no module"));
  EXPECT_THAT(refused(R"({"target_modules": ["q_proj"], "exclude_modules": ["k_porj"]})"),
              StartsWith("method.exclude_modules names \"k_porj\""));
  EXPECT_THAT(refused(R"({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]})"),
              HasSubstr("nothing is left"));
  EXPECT_THAT(refused(R"({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "h"})"),
              HasSubstr("nothing is left"));
  EXPECT_THAT(refused(R"({"target_modules": []})"), StartsWith("method.target_modules is empty"));
  EXPECT_THAT(refused("{}"), StartsWith("method.target_modules is missing"));
}

TEST(TargetsTest, RefusesWhatIsNoProjection) {
  EXPECT_THAT(refused(R"({"target_modules": ["mlp"]})"),
              HasSubstr("model.layers.0.mlp, which is no projection"));
  EXPECT_THAT(refused(R"({"target_modules": ".*\\.mlp\\..*"})"),
              HasSubstr("mlp.act_fn, which is no projection"));
  EXPECT_THAT(refused(R"({"target_modules": ["q_proj", "input_layernorm"]})"), HasSubstr("input_layernorm"));
  EXPECT_THAT(refused(R"({"target_modules": ["embed_tokens"]})"),
              HasSubstr("which this method cannot change"));
  EXPECT_EQ(selected(R"({"target_modules": ".*\\.mlp\\..*", "exclude_modules": ["act_fn"]})").size(), 36u);
}

TEST(TargetsTest, RefusesBadLayers) {
  EXPECT_THAT(refused(R"({"target_modules": ["q_proj"], "layers_to_transform": [12]})"),
              HasSubstr("layers 0 to 11"));
  EXPECT_THAT(refused(R"({"target_modules": ["q_proj"], "layers_to_transform": [-1]})"),
              HasSubstr("names layer -1"));
  EXPECT_THAT(refused(R"({"target_modules": ["q_proj"], "layers_pattern": "layers"})"),
              HasSubstr("layers_to_transform is missing"));
  EXPECT_THAT(refused(R"({"target_modules": "all-linear", "layers_to_transform": [1]})"),
              HasSubstr("target_modules is a string"));
}

TEST(TargetsTest, RefusesBadPatterns) {
  EXPECT_THAT(refused(R"({"target_modules": "(q_proj"})"),
              AllOf(StartsWith("method.target_modules is \"(q_proj\""),
                    HasSubstr("a regular expression is accepted")));
  // Backtracking without end is stopped.
  EXPECT_THAT(refused(R"({"target_modules": "((((m|.)*)*)*)*#"})"), HasSubstr("takes too long to match"));
}

TEST(TargetsTest, IndexFindsModulesByPlace) {
  const std::vector<Module> modules = backbone_modules(small_llama());
  const TargetIndex index({modules[0], modules[9], modules.back()}, 12);
  EXPECT_EQ(index.find(modules[0]), 0);
  EXPECT_EQ(index.find(modules[9]), 1);
  EXPECT_EQ(index.find(modules.back()), 2);
  EXPECT_EQ(index.find(modules[8]), -1);
  EXPECT_EQ(TargetIndex().find(modules[0]), -1);
}

}  // namespace
}  // namespace coppice
