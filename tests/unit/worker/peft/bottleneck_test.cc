#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/worker/peft/configs.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string bottleneck(const std::string& keys) {
  return R"({"peft_type": "BOTTLENECK")" + (keys.empty() ? "" : ", " + keys) + "}";
}

// Weights and biases of one place: hidden to m and back.
int64_t place(int64_t m) {
  return 16 * m + m + m * 16 + 16;
}

TEST(BottleneckTest, HasThePlacesOfItsPreset) {
  EXPECT_EQ(parameters(bottleneck("")), 12 * place(1));
  EXPECT_EQ(parameters(bottleneck(R"("config": "houlsby", "bottleneck_size": 5)")), 24 * place(5));
  EXPECT_EQ(parameters(bottleneck(R"("config": "double_seq_bn", "reduction_factor": 2)")), 24 * place(8));
  EXPECT_EQ(parameters(bottleneck(R"("config": "pfeiffer", "reduction_factor": 3)")), 12 * place(5));
  EXPECT_EQ(parameters(bottleneck(R"("mh_adapter": true, "output_adapter": false, "reduction_factor": 4)")),
            12 * place(4));
  EXPECT_EQ(parameters(bottleneck(R"("reduction_factor": 0.5)")), 12 * place(32));
  EXPECT_EQ(parameters(bottleneck(R"("layers_to_transform": [1, 11], "leave_out": [11])")), place(1));
}

TEST(BottleneckTest, NamesItsTensors) {
  const auto config = configured(bottleneck(R"("config": "houlsby", "bottleneck_size": 3)"));
  EXPECT_EQ(config->lowest_layer(), 0);
  EXPECT_EQ(tensor(*config, "model.layers.2.self_attn.adapter.down.weight").shape, (Shape{3, 16}));
  EXPECT_EQ(tensor(*config, "model.layers.2.self_attn.adapter.down.bias").shape, (Shape{3}));
  EXPECT_EQ(tensor(*config, "model.layers.2.mlp.adapter.up.weight").shape, (Shape{16, 3}));
  const TensorSpec& up = tensor(*config, "model.layers.2.mlp.adapter.up.bias");
  EXPECT_EQ(up.shape, (Shape{16}));
  EXPECT_EQ(up.hf_name, "base_model.model.model.layers.2.mlp.adapter.up.bias");
}

TEST(BottleneckTest, StartsAsTheIdentityUnlessAsked) {
  const auto config = configured(bottleneck(""));
  EXPECT_EQ(tensor(*config, "model.layers.0.mlp.adapter.up.weight").initial.kind, Initial::Kind::kZeros);
  EXPECT_EQ(tensor(*config, "model.layers.0.mlp.adapter.down.weight").initial.kind, Initial::Kind::kUniform);
  EXPECT_EQ(tensor(*config, "model.layers.0.mlp.adapter.down.weight").initial.scale, 0.25f);
  const auto bert = configured(bottleneck(R"("init_weights": "bert")"));
  EXPECT_EQ(tensor(*bert, "model.layers.0.mlp.adapter.up.weight").initial.kind, Initial::Kind::kNormal);
}

TEST(BottleneckTest, WritesWhatItReadsWithThePresetResolved) {
  const Json config =
      configured(bottleneck(R"("config": "houlsby", "reduction_factor": 4, "leave_out": [0])"))->hf_config();
  EXPECT_EQ(config["mh_adapter"], true);
  EXPECT_EQ(config["bottleneck_size"], 4);
  EXPECT_EQ(config["non_linearity"], "swish");
  EXPECT_EQ(config["layers_to_transform"].size(), 11u);
}

TEST(BottleneckTest, Refuses) {
  EXPECT_THAT(refusal(bottleneck(R"("non_linearity": "tanh")")),
              StartsWith("unsupported: method.non_linearity is \"tanh\""));
  EXPECT_THAT(refusal(bottleneck(R"("config": "parallel")")),
              StartsWith("invalid: method.config is \"parallel\""));
  EXPECT_THAT(refusal(bottleneck(R"("output_adapter": false)")), HasSubstr("at least one is needed"));
  EXPECT_THAT(refusal(bottleneck(R"("reduction_factor": 0)")),
              StartsWith("invalid: method.reduction_factor is 0"));
  EXPECT_THAT(refusal(bottleneck(R"("reduction_factor": 1e-30)")),
              StartsWith("invalid: method.reduction_factor is 1e-30"));
  EXPECT_THAT(refusal(bottleneck(R"("reduction_factor": 4, "bottleneck_size": 5)")),
              StartsWith("invalid: method.bottleneck_size is 5"));
  EXPECT_THAT(refusal(bottleneck(R"("leave_out": [0,1,2,3,4,5,6,7,8,9,10,11])")),
              HasSubstr("leaves no layer"));
  EXPECT_THAT(refusal(bottleneck(R"("leave_out": [12])")), HasSubstr("layers 0 to 11"));
  for (const char* key : {"is_parallel", "use_gating", "phm_layer"}) {
    EXPECT_THAT(refusal(bottleneck("\"" + std::string(key) + "\": true")),
                StartsWith("unsupported: method." + std::string(key)));
  }
  EXPECT_THAT(refusal(bottleneck(R"("scaling": 2)")), StartsWith("unsupported: method.scaling"));
  EXPECT_EQ(refusal(bottleneck(R"("scaling": 1, "dropout": 0)")), "accepted");
}

}  // namespace
}  // namespace coppice
