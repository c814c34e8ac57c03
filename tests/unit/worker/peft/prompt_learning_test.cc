#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/unit/worker/peft/configs.h"

namespace coppice {
namespace {

using ::testing::StartsWith;

TEST(PrefixTuningTest, CountsTheParametersThatPeftCounts) {
  EXPECT_EQ(parameters(R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5})"), 960);
}

TEST(PrefixTuningTest, KeepsPairsByLayerAndFilesThemAsPeftDoes) {
  const auto config = configured(R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2})");
  EXPECT_EQ(config->prefix_rows(), 2);
  EXPECT_EQ(config->virtual_rows(), 0);
  EXPECT_EQ(config->lowest_layer(), 0);
  ASSERT_EQ(config->tensors().size(), 24u);
  EXPECT_EQ(config->tensors()[3].name, "model.layers.1.self_attn.prefix_values");
  std::vector<Tensor> tensors;
  for (size_t t = 0; t < 24; ++t) {
    tensors.emplace_back(Shape{2, 8});
    for (size_t i = 0; i < 16; ++i) tensors[t].values[i] = float(t * 100 + i);
  }
  const auto file = config->to_hf(tensors);
  ASSERT_EQ(file.size(), 1u);
  EXPECT_EQ(file[0].first, "prompt_embeddings");
  EXPECT_EQ(file[0].second.shape, (Shape{2, 192}));
  // A row is [layer][key, value][kv head][dim].
  const auto at = [&](int row, int layer, int value, int column) {
    return file[0].second.values[size_t(row * 192 + (layer * 2 + value) * 8 + column)];
  };
  EXPECT_EQ(at(0, 0, 0, 3), 3);
  EXPECT_EQ(at(0, 5, 1, 2), 1102);  // layer 5, values, row 0
  EXPECT_EQ(at(1, 5, 0, 7), 1015);  // layer 5, keys, row 1
}

TEST(PrefixTuningTest, StartsAsPeftDoes) {
  const auto normal = configured(R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2})");
  EXPECT_EQ(normal->tensors()[0].initial.kind, Initial::Kind::kNormal);
  EXPECT_EQ(normal->tensors()[0].initial.scale, 1);
  const auto zero =
      configured(R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2, "init_weights": "zero"})");
  EXPECT_EQ(zero->tensors()[0].initial.kind, Initial::Kind::kZeros);
}

TEST(PrefixTuningTest, ReadsWhatPeftWrites) {
  EXPECT_EQ(parameters(R"({"auto_mapping": null, "base_model_name_or_path": null, "encoder_hidden_size": 8,
      "inference_mode": true, "init_weights": null, "modules_to_save": null, "num_attention_heads": 2,
      "num_layers": 12,
      "num_transformer_submodules": 1, "num_virtual_tokens": 5, "peft_type": "PREFIX_TUNING",
      "peft_version": "0.21.2",
      "prefix_projection": false, "revision": null, "task_type": "CAUSAL_LM", "token_dim": 8})"),
            960);
}

TEST(PrefixTuningTest, Refuses) {
  const auto with = [](const std::string& keys) {
    return refusal(R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, )" + keys + "}");
  };
  EXPECT_THAT(with(R"("prefix_projection": true)"),
              StartsWith("unsupported: method.prefix_projection is true"));
  EXPECT_THAT(with(R"("token_dim": 16)"), StartsWith("unsupported: method.token_dim is 16; only 8"));
  EXPECT_THAT(with(R"("num_layers": 11)"), StartsWith("unsupported: method.num_layers is 11; only 12"));
  EXPECT_THAT(with(R"("num_attention_heads": 4)"),
              StartsWith("unsupported: method.num_attention_heads is 4; only 2"));
  EXPECT_THAT(with(R"("num_transformer_submodules": 2)"),
              StartsWith("unsupported: method.num_transformer_submodules"));
  EXPECT_THAT(with(R"("init_weights": "ones")"), StartsWith("invalid: method.init_weights is \"ones\""));
  EXPECT_THAT(refusal(R"({"peft_type": "PREFIX_TUNING"})"),
              StartsWith("invalid: method.num_virtual_tokens is missing"));
  EXPECT_THAT(refusal(R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 0})"),
              StartsWith("invalid: method.num_virtual_tokens is 0"));
  EXPECT_THAT(refusal(R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 129})"),
              StartsWith("invalid: method.num_virtual_tokens is 129"));
}

TEST(PromptTuningTest, IsOneTensorOfRows) {
  const auto config = configured(R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5})");
  EXPECT_EQ(config->trainable_parameters(), 80);  // peft
  EXPECT_EQ(config->virtual_rows(), 5);
  EXPECT_EQ(config->prefix_rows(), 0);
  EXPECT_EQ(config->lowest_layer(), -1);
  EXPECT_EQ(config->tensors()[0].hf_name, "prompt_embeddings");
  EXPECT_EQ(config->tensors()[0].shape, (Shape{5, 16}));
  EXPECT_EQ(config->tensors()[0].initial.kind, Initial::Kind::kNormal);
}

TEST(PromptTuningTest, SamplesTheVocabularyBySeed) {
  const auto config = configured(
      R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20, "prompt_tuning_init": "SAMPLE_VOCAB"})");
  const TensorSpec& spec = config->tensors()[0];
  ASSERT_EQ(spec.initial.kind, Initial::Kind::kEmbeddingRows);
  std::vector<int32_t> tokens;
  const auto row = [&](int32_t token) {
    tokens.push_back(token);
    return std::vector<float>(16, float(token) + 0.5f);
  };
  const Tensor start = initial_value(spec, 3, row);
  ASSERT_EQ(tokens.size(), 20u);
  for (size_t r = 0; r < 20; ++r) {
    EXPECT_GE(tokens[r], 0);
    EXPECT_LT(tokens[r], 50);
    for (size_t c = 0; c < 16; ++c) EXPECT_EQ(start.values[r * 16 + c], float(tokens[r]) + 0.5f);
  }
  EXPECT_GT(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 5u);
}

TEST(PromptTuningTest, StartsFromTokensThatAreGiven) {
  TensorSpec spec = configured(R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2})")->tensors()[0];
  spec.initial.kind = Initial::Kind::kEmbeddingRows;
  spec.initial.tokens = {7, 3};
  const Tensor start =
      initial_value(spec, 3, [](int32_t token) { return std::vector<float>(16, float(token)); });
  EXPECT_EQ(start.values.front(), 7);
  EXPECT_EQ(start.values.back(), 3);
}

TEST(PromptTuningTest, ReadsWhatPeftWritesAndRefusesTheRest) {
  EXPECT_EQ(parameters(R"({"auto_mapping": null, "base_model_name_or_path": null, "inference_mode": true,
      "modules_to_save": null, "num_attention_heads": 4, "num_layers": 12, "num_transformer_submodules": 1,
      "num_virtual_tokens": 5, "peft_type": "PROMPT_TUNING", "peft_version": "0.21.2",
      "prompt_tuning_init": "RANDOM",
      "prompt_tuning_init_text": null, "revision": null, "task_type": "CAUSAL_LM", "token_dim": 16,
      "tokenizer_kwargs": null, "tokenizer_name_or_path": null})"),
            80);
  const auto with = [](const std::string& keys) {
    return refusal(R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5, )" + keys + "}");
  };
  EXPECT_THAT(with(R"("prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Hello")"),
              StartsWith("unsupported: method.prompt_tuning_init is \"TEXT\""));
  EXPECT_THAT(with(R"("prompt_tuning_init": "ZERO")"), StartsWith("invalid: method.prompt_tuning_init"));
  EXPECT_THAT(with(R"("prompt_tuning_init_text": "Hello")"),
              StartsWith("unsupported: method.prompt_tuning_init_text"));
  EXPECT_THAT(with(R"("token_dim": 8)"), StartsWith("unsupported: method.token_dim"));
}

}  // namespace
}  // namespace coppice
