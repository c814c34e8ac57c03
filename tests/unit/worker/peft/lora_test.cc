#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/worker/peft/configs.h"

namespace coppice {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string lora(const std::string& keys) {
  return R"({"peft_type": "LORA")" + (keys.empty() ? "" : ", " + keys) + "}";
}

// The keys that peft 0.21.2 writes for LoraConfig(r=3, target_modules=["embed_tokens", "lm_head", "v_proj"]).
constexpr const char* kWrittenByPeft = R"({
  "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
  "base_model_name_or_path": null, "bias": "none", "corda_config": null, "ensure_weight_tying": false,
  "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
  "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
  "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8, "lora_bias": false, "lora_dropout": 0.0,
  "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null,
  "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 3,
  "rank_pattern": {}, "revision": null, "target_modules": ["lm_head", "embed_tokens", "v_proj"],
  "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null,
  "use_dora": false, "use_qalora": false, "use_rslora": false, "velora_config": null})";

TEST(LoraTest, CountsTheParametersThatPeftCounts) {
  EXPECT_EQ(parameters(lora("")), 5376);
  EXPECT_EQ(parameters(lora(R"("r": 4, "target_modules": "all-linear")")), 13440);
  EXPECT_EQ(parameters(lora(R"("target_modules": ".*\\.[13]\\.self_attn\\.(q|o)_proj")")), 1024);
  EXPECT_EQ(parameters(lora(R"("target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1, 10])")),
            1408);
  EXPECT_EQ(parameters(lora(R"("target_modules": ["q_proj", "down_proj"], "layers_to_transform": 1,
                               "layers_pattern": "layers")")),
            704);
  EXPECT_EQ(parameters(lora(R"("target_modules": "all-linear",
                               "exclude_modules": ["mlp.gate_proj", "model.layers.0.self_attn.q_proj"])")),
            21248);
  EXPECT_EQ(
      parameters(lora(R"("target_modules": ["q_proj", "k_proj"], "exclude_modules": ".*layers\\.1\\..*")")),
      4928);
  EXPECT_EQ(
      parameters(lora(R"("r": 3, "target_modules": ["model.layers.2.mlp.up_proj", "self_attn.o_proj"])")),
      1320);
}

TEST(LoraTest, FollowsPatternsAsPeftDoes) {
  EXPECT_EQ(parameters(lora(R"("r": 4, "target_modules": ["q_proj", "k_proj"],
                               "rank_pattern": {"self_attn\\.k_proj": 2, "1.self_attn.q_proj": 7})")),
            2208);
  const auto config =
      configured(lora(R"("r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "down_proj"],
      "rank_pattern": {"layers.1.self_attn.q_proj": 2, "q_proj": 6, "^model\\.layers\\.2\\..*k_proj": 3})"));
  EXPECT_EQ(config->trainable_parameters(), 5992);  // peft
  // The first that matches counts; a name matches a whole part, so layers.1 is not layers.11.
  EXPECT_EQ(tensor(*config, "model.layers.1.self_attn.q_proj.lora_A").shape, (Shape{2, 16}));
  EXPECT_EQ(tensor(*config, "model.layers.11.self_attn.q_proj.lora_A").shape, (Shape{6, 16}));
  EXPECT_EQ(tensor(*config, "model.layers.2.self_attn.k_proj.lora_B").shape, (Shape{8, 3}));
  EXPECT_EQ(tensor(*config, "model.layers.3.self_attn.k_proj.lora_B").shape, (Shape{8, 4}));
}

TEST(LoraTest, TakesEmbeddingAndHead) {
  const auto config = configured(lora(R"("r": 3, "target_modules": ["embed_tokens", "lm_head", "v_proj"])"));
  EXPECT_EQ(config->trainable_parameters(), 1260);  // peft
  EXPECT_EQ(config->lowest_layer(), -1);
  const TensorSpec& a = tensor(*config, "model.embed_tokens.lora_embedding_A");
  EXPECT_EQ(a.hf_name, "base_model.model.model.embed_tokens.lora_embedding_A");
  EXPECT_EQ(a.shape, (Shape{50, 3}));
  EXPECT_TRUE(a.hf_transposed);
  EXPECT_EQ(a.initial.kind, Initial::Kind::kZeros);
  EXPECT_EQ(tensor(*config, "model.embed_tokens.lora_embedding_B").initial.kind, Initial::Kind::kNormal);
  const TensorSpec& head = tensor(*config, "lm_head.lora_B");
  EXPECT_EQ(head.hf_name, "base_model.model.lm_head.lora_B.weight");
  EXPECT_EQ(head.layer, 12);
  EXPECT_THAT(config->hf_copies(), ElementsAre("base_model.model.model.embed_tokens.base_layer.weight",
                                               "base_model.model.lm_head.base_layer.weight"));
  EXPECT_EQ(parameters(lora(R"("r": 3, "target_modules": ["lm_head", "v_proj"])"), true), 1062);
  EXPECT_THAT(refusal(lora(R"("target_modules": ["lm_head", "embed_tokens"])"), true),
              AllOf(StartsWith("unsupported: method.target_modules"), HasSubstr("tied")));
}

TEST(LoraTest, StartsAsPeftDoes) {
  const auto config = configured(lora(R"("r": 4, "target_modules": ["down_proj"])"));
  const Initial& a = tensor(*config, "model.layers.0.mlp.down_proj.lora_A").initial;
  EXPECT_EQ(a.kind, Initial::Kind::kUniform);
  EXPECT_FLOAT_EQ(a.scale, 1 / std::sqrt(40.0f));  // kaiming_uniform_ with a = sqrt(5)
  EXPECT_EQ(tensor(*config, "model.layers.0.mlp.down_proj.lora_B").initial.kind, Initial::Kind::kZeros);
  const auto gaussian =
      configured(lora(R"("r": 4, "target_modules": ["down_proj"], "init_lora_weights": "gaussian")"));
  EXPECT_EQ(tensor(*gaussian, "model.layers.0.mlp.down_proj.lora_A").initial.kind, Initial::Kind::kNormal);
  EXPECT_FLOAT_EQ(tensor(*gaussian, "model.layers.0.mlp.down_proj.lora_A").initial.scale, 0.25f);
  const auto random =
      configured(lora(R"("r": 4, "target_modules": ["down_proj"], "init_lora_weights": false)"));
  EXPECT_FLOAT_EQ(tensor(*random, "model.layers.0.mlp.down_proj.lora_B").initial.scale, 0.5f);
}

TEST(LoraTest, ReadsWhatPeftWrites) {
  const auto config = configured(kWrittenByPeft);
  EXPECT_EQ(config->trainable_parameters(), 1260);
  EXPECT_EQ(config->hf_config()["r"], 3);
  EXPECT_EQ(config->hf_config()["target_modules"], Json::parse(R"(["lm_head", "embed_tokens", "v_proj"])"));
}

TEST(LoraTest, RefusesByNameWhatIsNotSupported) {
  const Json values = Json::parse(R"({
      "use_dora": true, "bias": "all", "lora_bias": true, "modules_to_save": ["lm_head"], "use_qalora": true,
      "layer_replication": [[0, 4]], "trainable_token_indices": [1], "target_parameters": ["w"],
      "megatron_config": {}, "loftq_config": {"loftq_bits": 4}, "eva_config": {"rho": 2}, "corda_config": {},
      "lora_ga_config": {}, "velora_config": {}, "kasa_config": {}, "arrow_config": {},
      "monteclora_config": {},
      "alora_invocation_tokens": [1], "use_bdlora": true, "ensure_weight_tying": true, "fan_in_fan_out": true,
      "init_lora_weights": "pissa", "task_type": "SEQ_CLS"})");
  for (const auto& [key, value] : values.items()) {
    EXPECT_THAT(refusal(lora("\"" + key + "\": " + value.dump())),
                StartsWith("unsupported: method." + key + " is "));
  }
}

TEST(LoraTest, RefusesBadValues) {
  EXPECT_THAT(refusal(lora(R"("r": 0)")), StartsWith("invalid: method.r is 0"));
  EXPECT_THAT(refusal(lora(R"("r": 2.5)")), StartsWith("invalid: method.r is 2.5"));
  EXPECT_THAT(refusal(lora(R"("lora_alpha": "8")")), StartsWith("invalid: method.lora_alpha"));
  EXPECT_THAT(refusal(lora(R"("lora_dropout": 1)")), StartsWith("invalid: method.lora_dropout"));
  EXPECT_THAT(refusal(lora(R"("lora_droput": 0.1)")), HasSubstr("did you mean lora_dropout?"));
  EXPECT_THAT(refusal(lora(R"("rank_pattern": {"k_proj": 4})")),
              StartsWith("invalid: method.rank_pattern.k_proj matches none"));
  EXPECT_THAT(refusal(lora(R"("rank_pattern": {"v_proj": 0})")),
              StartsWith("invalid: method.rank_pattern.v_proj is 0"));
  EXPECT_THAT(refusal(lora(R"("rank_pattern": {"v_proj": null})")),
              HasSubstr("method.rank_pattern.v_proj is null"));
  EXPECT_THAT(refusal(lora(R"("rank_pattern": {"(": 4})")), HasSubstr("a regular expression is accepted"));
  EXPECT_THAT(refusal(lora(R"("alpha_pattern": ["v_proj"])")), StartsWith("invalid: method.alpha_pattern"));
  EXPECT_THAT(refusal(R"({"peft_type": "LORRA"})"),
              AllOf(StartsWith("unsupported: method.peft_type is \"LORRA\""), HasSubstr("did you mean LORA?"),
                    HasSubstr("IA3")));
  EXPECT_THAT(refusal("{}"), StartsWith("invalid: method.peft_type is missing"));
}

}  // namespace
}  // namespace coppice
