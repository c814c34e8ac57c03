#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/worker/peft/configs.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string ia3(const std::string& keys) {
  return R"({"peft_type": "IA3", )" + keys + "}";
}

TEST(Ia3Test, CountsTheParametersThatPeftCounts) {
  EXPECT_EQ(
      parameters(ia3(
          R"("target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"])")),
      672);
  EXPECT_EQ(parameters(ia3(R"("target_modules": ["k_proj", "v_proj", "down_proj"])")), 672);
  EXPECT_EQ(parameters(ia3(R"("target_modules": ["up_proj", "mlp.down_proj", "lm_head"],
                              "feedforward_modules": ["mlp.down_proj"])")),
            1010);
  EXPECT_EQ(parameters(ia3(R"("target_modules": ["q_proj", "down_proj"], "feedforward_modules": [])")), 384);
  EXPECT_EQ(parameters(ia3(R"("target_modules": "all-linear", "feedforward_modules": ".*\\.(down|o)_proj")")),
            2016);
}

TEST(Ia3Test, LaysItsVectorsOutAsPeftDoes) {
  const auto config =
      configured(ia3(R"("target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"])"));
  const TensorSpec& k = tensor(*config, "model.layers.3.self_attn.k_proj.ia3_l");
  EXPECT_EQ(k.hf_name, "base_model.model.model.layers.3.self_attn.k_proj.ia3_l");
  EXPECT_EQ(k.shape, (Shape{1, 8}));
  EXPECT_TRUE(k.hf_transposed);  // [8, 1] in the file
  const TensorSpec& down = tensor(*config, "model.layers.3.mlp.down_proj.ia3_l");
  EXPECT_EQ(down.shape, (Shape{1, 40}));
  EXPECT_FALSE(down.hf_transposed);
  EXPECT_EQ(down.initial.kind, Initial::Kind::kOnes);
}

TEST(Ia3Test, ReadsWhatPeftWrites) {
  EXPECT_EQ(parameters(R"({"auto_mapping": null, "base_model_name_or_path": null, "exclude_modules": null,
      "fan_in_fan_out": false, "feedforward_modules": ["down_proj"], "inference_mode": true,
      "init_ia3_weights": true,
      "modules_to_save": null, "peft_type": "IA3", "peft_version": "0.21.2", "revision": null,
      "target_modules": ["k_proj", "down_proj"], "task_type": "CAUSAL_LM"})"),
            12 * 48);
}

TEST(Ia3Test, Refuses) {
  EXPECT_THAT(refusal(R"({"peft_type": "IA3"})"), StartsWith("invalid: method.target_modules is missing"));
  EXPECT_THAT(refusal(ia3(R"("target_modules": ["k_proj"], "feedforward_modules": ["down_proj"])")),
              StartsWith("invalid: method.feedforward_modules names \"down_proj\""));
  EXPECT_THAT(refusal(ia3(R"("target_modules": ["embed_tokens"])")),
              StartsWith("unsupported: method.target_modules"));
  EXPECT_THAT(refusal(ia3(R"("target_modules": ["k_proj"], "modules_to_save": ["lm_head"])")),
              StartsWith("unsupported: method.modules_to_save"));
  EXPECT_THAT(refusal(ia3(R"("target_modules": ["k_proj"], "layers_to_transform": [1])")),
              HasSubstr("unknown key"));
  EXPECT_THAT(refusal(ia3(R"("target_modules": ["k_proj"], "feedforward_modules": "[")")),
              StartsWith("invalid: method.feedforward_modules is \"[\""));
}

}  // namespace
}  // namespace coppice
