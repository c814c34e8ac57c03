#include "worker/backbone/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"

namespace coppice {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A Llama as transformers 5 writes it, small.
Json llama() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 0,
    "dtype": "bfloat16", "eos_token_id": 1, "head_dim": 32, "hidden_act": "silu", "hidden_size": 256,
    "initializer_range": 0.03, "intermediate_size": 704, "max_position_embeddings": 1024, "mlp_bias": false,
    "model_type": "llama", "num_attention_heads": 8, "num_hidden_layers": 4, "num_key_value_heads": 4,
    "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": true,
    "transformers_version": "5.23.0", "use_cache": true, "vocab_size": 4096})");
}

// The same as a Qwen2 that uses windows in layers 2 and 3.
Json qwen2() {
  Json json = llama();
  for (const char* key : {"attention_bias", "mlp_bias", "pretraining_tp", "head_dim"}) json.erase(key);
  json["model_type"] = "qwen2";
  json["architectures"] = {"Qwen2ForCausalLM"};
  json["use_sliding_window"] = true;
  json["sliding_window"] = 16;
  json["max_window_layers"] = 2;
  return json;
}

BackboneConfig parse(const Json& json) {
  return parse_backbone_config(json, "config.json");
}

std::string refusal(const Json& json) {
  try {
    parse(json);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

Json with(Json json, const std::string& key, const Json& value) {
  json[key] = value;
  return json;
}

Json without(Json json, const std::string& key) {
  json.erase(key);
  return json;
}

TEST(BackboneConfigTest, ReadsLlama) {
  const BackboneConfig config = parse(llama());
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.hidden, 256);
  EXPECT_EQ(config.intermediate, 704);
  EXPECT_EQ(config.layers, 4);
  EXPECT_EQ(config.q_size(), 256);
  EXPECT_EQ(config.kv_size(), 128);
  EXPECT_EQ(config.vocabulary, 4096);
  EXPECT_EQ(config.max_positions, 1024);
  EXPECT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_EQ(config.activation, Activation::kSilu);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_FALSE(config.qkv_bias || config.output_bias || config.mlp_bias || config.qk_norm);
  EXPECT_THAT(config.window, ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(config.bos, 0);
  EXPECT_EQ(config.eos, 1);
  EXPECT_EQ(config.pad, 2);
}

TEST(BackboneConfigTest, LlamaBiases) {
  const BackboneConfig config = parse(with(with(llama(), "attention_bias", true), "mlp_bias", true));
  EXPECT_TRUE(config.qkv_bias && config.output_bias && config.mlp_bias);
}

TEST(BackboneConfigTest, HeadDimFollowsFromTheHiddenSize) {
  EXPECT_EQ(parse(without(llama(), "head_dim")).head_dim, 32);
  EXPECT_EQ(parse(with(llama(), "head_dim", nullptr)).head_dim, 32);
  EXPECT_EQ(parse(with(llama(), "head_dim", 64)).q_size(), 512);
  EXPECT_THAT(refusal(with(without(llama(), "head_dim"), "hidden_size", 250)),
              HasSubstr("hidden_size is 250"));
}

TEST(BackboneConfigTest, KeyHeadsWhereAbsentAreThoseOfTheFamily) {
  EXPECT_EQ(parse(without(llama(), "num_key_value_heads")).kv_heads, 8);
  Json mistral = without(without(llama(), "num_key_value_heads"), "pretraining_tp");
  mistral["model_type"] = "mistral";
  mistral["architectures"] = {"MistralForCausalLM"};
  mistral["num_attention_heads"] = 16;
  EXPECT_EQ(parse(mistral).kv_heads, 8);
  EXPECT_EQ(parse(with(mistral, "num_key_value_heads", nullptr)).kv_heads, 16);
  EXPECT_THAT(refusal(with(llama(), "num_key_value_heads", 3)), HasSubstr("num_key_value_heads is 3"));
}

TEST(BackboneConfigTest, MistralHasOneWindowForAllLayersOrNone) {
  Json json = without(llama(), "pretraining_tp");
  json["model_type"] = "mistral";
  json["architectures"] = {"MistralForCausalLM"};
  EXPECT_THAT(parse(json).window, Each(4096));  // as transformers takes it where absent
  EXPECT_THAT(parse(with(json, "sliding_window", nullptr)).window, Each(0));
  EXPECT_THAT(parse(with(json, "sliding_window", 7)).window, Each(7));
  EXPECT_THAT(refusal(with(json, "sliding_window", 0)), HasSubstr("sliding_window is 0"));
  EXPECT_THAT(refusal(with(json, "attention_bias", true)), HasSubstr("attention_bias is true"));
}

TEST(BackboneConfigTest, Qwen2HasBiasesAndWindowsAbove) {
  const BackboneConfig config = parse(qwen2());
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.output_bias || config.mlp_bias || config.qk_norm);
  EXPECT_THAT(config.window, ElementsAre(0, 0, 16, 16));
  EXPECT_THAT(parse(with(qwen2(), "use_sliding_window", false)).window, Each(0));
  EXPECT_THAT(parse(with(qwen2(), "sliding_window", nullptr)).window, Each(0));
  EXPECT_THAT(parse(with(qwen2(), "max_window_layers", 28)).window, Each(0));
}

TEST(BackboneConfigTest, LayerTypesSayWhichLayersHaveAWindow) {
  const Json types = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  EXPECT_THAT(parse(with(qwen2(), "layer_types", types)).window, ElementsAre(16, 0, 16, 0));
  EXPECT_THAT(refusal(with(with(qwen2(), "layer_types", types), "use_sliding_window", false)),
              HasSubstr("sliding_window is off"));
  EXPECT_THAT(refusal(with(qwen2(), "layer_types", {"full_attention", "full_attention"})),
              HasSubstr("2 entries"));
  EXPECT_THAT(refusal(with(qwen2(), "layer_types", {"linear_attention", "full_attention", "", ""})),
              HasSubstr("linear_attention"));
  EXPECT_EQ(
      refusal(with(llama(), "layer_types",
                   Json::array({"full_attention", "full_attention", "full_attention", "full_attention"}))),
      "accepted");
  EXPECT_THAT(refusal(with(llama(), "layer_types", types)), HasSubstr("layer_types"));
}

TEST(BackboneConfigTest, Qwen3NormsHeadsOfItsOwnSize) {
  Json json = without(without(qwen2(), "use_sliding_window"), "sliding_window");
  json["model_type"] = "qwen3";
  json["architectures"] = {"Qwen3ForCausalLM"};
  const BackboneConfig config = parse(json);
  EXPECT_TRUE(config.qk_norm);
  EXPECT_FALSE(config.qkv_bias || config.output_bias);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_THAT(config.window, Each(0));
  const BackboneConfig biased = parse(with(json, "attention_bias", true));
  EXPECT_TRUE(biased.qkv_bias && biased.output_bias);
}

TEST(BackboneConfigTest, ActivationsAsTransformersNamesThem) {
  EXPECT_EQ(parse(with(llama(), "hidden_act", "swish")).activation, Activation::kSilu);
  EXPECT_EQ(parse(with(llama(), "hidden_act", "gelu")).activation, Activation::kGelu);
  EXPECT_EQ(parse(with(llama(), "hidden_act", "gelu_pytorch_tanh")).activation, Activation::kGeluTanh);
  EXPECT_EQ(parse(with(llama(), "hidden_act", "gelu_new")).activation, Activation::kGeluTanh);
  EXPECT_EQ(parse(with(llama(), "hidden_act", "relu")).activation, Activation::kRelu);
  EXPECT_THAT(refusal(with(llama(), "hidden_act", "relu2")),
              AllOf(HasSubstr("relu2"), HasSubstr("gelu_new")));
}

TEST(BackboneConfigTest, TokensMayBeListsAbsentOrNull) {
  EXPECT_EQ(parse(with(llama(), "eos_token_id", {7, 9})).eos, 7);
  EXPECT_EQ(parse(without(llama(), "eos_token_id")).eos, 2);
  EXPECT_EQ(parse(with(llama(), "eos_token_id", nullptr)).eos, std::nullopt);
  EXPECT_EQ(parse(with(llama(), "pad_token_id", -1)).pad, std::nullopt);
  EXPECT_EQ(parse(without(qwen2(), "bos_token_id")).bos, std::nullopt);
  EXPECT_THAT(refusal(with(llama(), "bos_token_id", "<s>")), HasSubstr("bos_token_id"));
}

// Each key that would change the arithmetic is named in the refusal.
TEST(BackboneConfigTest, RefusesWhatWouldChangeTheArithmetic) {
  const std::vector<std::pair<std::string, Json>> cases = {
      {"pretraining_tp", 2},
      {"attention_dropout", 0.1},
      {"quantization_config", {{"quant_method", "gptq"}}},
      {"partial_rotary_factor", 0.5},
      {"final_logit_softcapping", 30.0},
      {"sliding_window", 128},
      {"auto_map", {{"AutoModel", "modeling.X"}}},
      {"rope_interleaved", true},
      {"logit_scale", 0.5},
      {"num_local_experts", 8},
      {"is_encoder_decoder", true},
      {"architectures", {"LlamaForSequenceClassification"}},
      {"some_new_idea", 1},
      {"head_dim", 33},
  };
  for (const auto& [key, value] : cases) {
    const std::string message = refusal(with(llama(), key, value));
    EXPECT_THAT(message, HasSubstr("config.json." + key));
  }
}

TEST(BackboneConfigTest, AcceptsWhatSaysNothingAboutTheArithmetic) {
  Json json = llama();
  json.update(
      Json::parse(R"({"_name_or_path": "x/y", "torch_dtype": "float16", "temperature": 0.6, "top_p": 0.9,
    "attention_dropout": 0, "quantization_config": null, "id2label": {"0": "a"}, "pruned_heads": {},
    "partial_rotary_factor": 1.0, "rope_scaling": null, "rope_theta": 10000})"));
  EXPECT_EQ(refusal(json), "accepted");
}

TEST(BackboneConfigTest, RefusesSizesThatAreDamage) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                          "intermediate_size", "max_position_embeddings"}) {
    for (const Json& value : {Json(0), Json(-3), Json(1e15), Json("8"), Json(2.5), Json::array()}) {
      EXPECT_THAT(refusal(with(llama(), key, value)), HasSubstr(std::string("config.json.") + key));
    }
  }
}

TEST(BackboneConfigTest, NamesTheFamiliesItKnows) {
  EXPECT_THAT(refusal(with(llama(), "model_type", "gpt2")),
              AllOf(HasSubstr("gpt2"), HasSubstr("llama, mistral, qwen2 and qwen3")));
  EXPECT_THAT(refusal(without(llama(), "model_type")), HasSubstr("model_type is missing"));
  EXPECT_THAT(refusal(Json::array()), HasSubstr("object"));
}

TEST(BackboneConfigTest, MissingFileIsNamed) {
  try {
    read_backbone_config("/nowhere/at/all");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), HasSubstr("/nowhere/at/all/config.json"));
  }
}

TEST(BackboneModulesTest, CanonicalOrderAndShapes) {
  const std::vector<Module> modules =
      backbone_modules(parse(with(with(llama(), "head_dim", 64), "mlp_bias", true)));
  ASSERT_EQ(modules.size(), 4u * 7 + 2);
  EXPECT_EQ(modules.front().path, "model.embed_tokens");
  EXPECT_EQ(modules.front().layer, -1);
  EXPECT_EQ(modules.back().path, "lm_head");
  EXPECT_EQ(modules.back().layer, 4);
  const Module& key = modules[1 + 7 * 2 + 1];
  EXPECT_EQ(key.path, "model.layers.2.self_attn.k_proj");
  EXPECT_EQ(key.name(), "k_proj");
  EXPECT_EQ(key.out, 256);
  EXPECT_EQ(key.in, 256);
  EXPECT_FALSE(key.bias);
  const Module& down = modules[7 * 4];
  EXPECT_EQ(down.path, "model.layers.3.mlp.down_proj");
  EXPECT_EQ(down.out, 256);
  EXPECT_EQ(down.in, 704);
  EXPECT_TRUE(down.bias);
}

}  // namespace
}  // namespace coppice
