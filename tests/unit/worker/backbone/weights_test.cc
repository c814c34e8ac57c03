#include "worker/backbone/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/base/error.h"
#include "common/base/random.h"

namespace coppice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Tensors = std::map<std::string, Tensor>;

BackboneConfig small(bool tied = false) {
  BackboneConfig config;
  config.family = "llama";
  config.hidden = 8;
  config.intermediate = 12;
  config.layers = 2;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 4;
  config.vocabulary = 10;
  config.max_positions = 16;
  config.norm_epsilon = 1e-5f;
  config.tied_embeddings = tied;
  config.window = {0, 0};
  return config;
}

Tensor random_tensor(const Shape& shape, uint64_t seed) {
  Tensor tensor(shape);
  Random random(seed);
  for (float& value : tensor.values) value = float(random.normal());
  return tensor;
}

Tensors tensors_of(const BackboneConfig& config) {
  Tensors tensors;
  const auto add = [&](const std::string& name, const Shape& shape) {
    tensors[name] = random_tensor(shape, name_hash(name));
  };
  for (const Module& module : backbone_modules(config)) {
    if (module.slot == Slot::kHead && config.tied_embeddings) continue;
    add(module.path + ".weight", {module.out, module.in});
    if (module.bias) add(module.path + ".bias", {module.out});
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string block = "model.layers." + std::to_string(layer) + ".";
    add(block + "input_layernorm.weight", {config.hidden});
    add(block + "post_attention_layernorm.weight", {config.hidden});
    if (!config.qk_norm) continue;
    add(block + "self_attn.q_norm.weight", {config.head_dim});
    add(block + "self_attn.k_norm.weight", {config.head_dim});
  }
  add("model.norm.weight", {config.hidden});
  return tensors;
}

class WeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = ::testing::TempDir() + "coppice_weights_" + info->name() + "_" + std::to_string(::getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const Tensors& tensors, const std::string& file = "model.safetensors") {
    std::vector<std::pair<std::string, TensorView>> views;
    for (const auto& [name, tensor] : tensors) views.emplace_back(name, tensor.view());
    write_safetensors(folder_ + "/" + file, views);
  }
  uint64_t fingerprint(const BackboneConfig& config) {
    return BackboneWeights(folder_, config).fingerprint();
  }
  std::string refusal(const BackboneConfig& config) {
    try {
      BackboneWeights weights(folder_, config);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }
  std::string folder_;
};

TEST_F(WeightsTest, FindsEveryWeight) {
  BackboneConfig config = small();
  config.qkv_bias = true;
  config.qk_norm = true;
  const Tensors tensors = tensors_of(config);
  write(tensors);
  const BackboneWeights weights(folder_, config);
  const auto values = [&](const TensorView& view) { return to_f32(view).values; };
  EXPECT_EQ(values(weights.projection(1, Slot::kDown)),
            tensors.at("model.layers.1.mlp.down_proj.weight").values);
  EXPECT_EQ(values(*weights.bias(0, Slot::kValue)),
            tensors.at("model.layers.0.self_attn.v_proj.bias").values);
  EXPECT_EQ(weights.bias(0, Slot::kAttentionOut), std::nullopt);
  EXPECT_EQ(values(weights.input_norm(1)), tensors.at("model.layers.1.input_layernorm.weight").values);
  EXPECT_EQ(values(weights.post_attention_norm(0)),
            tensors.at("model.layers.0.post_attention_layernorm.weight").values);
  EXPECT_EQ(values(weights.query_norm(0)), tensors.at("model.layers.0.self_attn.q_norm.weight").values);
  EXPECT_EQ(values(weights.key_norm(1)), tensors.at("model.layers.1.self_attn.k_norm.weight").values);
  EXPECT_EQ(values(weights.final_norm()), tensors.at("model.norm.weight").values);
  EXPECT_EQ(values(weights.embedding()), tensors.at("model.embed_tokens.weight").values);
  EXPECT_EQ(values(weights.head()), tensors.at("lm_head.weight").values);
  int64_t count = 0;
  for (const auto& [name, tensor] : tensors) count += int64_t(tensor.values.size());
  EXPECT_EQ(weights.parameters(), count);
  // What was released can be read again.
  weights.release(weights.embedding());
  EXPECT_EQ(values(weights.embedding()), tensors.at("model.embed_tokens.weight").values);
}

TEST_F(WeightsTest, TiedHeadMayBeSavedWhenItIsTheSame) {
  const BackboneConfig config = small(true);
  Tensors tensors = tensors_of(config);
  write(tensors);
  const uint64_t without = fingerprint(config);
  const int64_t parameters = BackboneWeights(folder_, config).parameters();
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  write(tensors);
  EXPECT_EQ(fingerprint(config), without);
  EXPECT_EQ(BackboneWeights(folder_, config).parameters(), parameters);
  tensors["lm_head.weight"].values[3] += 1;
  write(tensors);
  EXPECT_THAT(refusal(config), AllOf(HasSubstr("lm_head.weight differs"), HasSubstr("tie_word_embeddings")));
}

TEST_F(WeightsTest, BareModelHasNoPrefix) {
  const BackboneConfig config = small(true);
  const Tensors tensors = tensors_of(config);
  write(tensors);
  const uint64_t prefixed = fingerprint(config);
  Tensors bare;
  for (const auto& [name, tensor] : tensors) bare[name.substr(std::string("model.").size())] = tensor;
  write(bare);
  EXPECT_EQ(fingerprint(config), prefixed);
}

TEST_F(WeightsTest, KnowsRotaryBuffers) {
  Tensors tensors = tensors_of(small());
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor({2});
  write(tensors);
  EXPECT_EQ(refusal(small()), "accepted");
}

TEST_F(WeightsTest, RefusesWhatIsMissingLeftOverOrOfAnotherShape) {
  const Tensors whole = tensors_of(small());
  Tensors tensors = whole;
  tensors.erase("model.layers.1.mlp.up_proj.weight");
  write(tensors);
  EXPECT_THAT(refusal(small()), HasSubstr("model.layers.1.mlp.up_proj.weight is missing"));

  tensors = whole;
  tensors["model.layers.0.self_attn.q_proj.bias"] = Tensor({8});
  write(tensors);
  EXPECT_THAT(refusal(small()), HasSubstr("model.layers.0.self_attn.q_proj.bias has no place"));

  tensors = whole;
  tensors["model.layers.0.self_attn.k_proj.weight"] = Tensor({8, 4});
  write(tensors);
  EXPECT_THAT(refusal(small()), AllOf(HasSubstr("[8, 4]"), HasSubstr("[4, 8]")));
}

TEST_F(WeightsTest, RefusesIntegerWeights) {
  const Tensors tensors = tensors_of(small());
  std::vector<std::pair<std::string, TensorView>> views;
  for (const auto& [name, tensor] : tensors) views.emplace_back(name, tensor.view());
  const std::vector<int32_t> integers(8);
  for (auto& [name, view] : views) {
    if (name == "model.norm.weight") view = {DType::kI32, {8}, std::as_bytes(std::span(integers))};
  }
  write_safetensors(folder_ + "/model.safetensors", views);
  EXPECT_THAT(refusal(small()), AllOf(HasSubstr("model.norm.weight is I32"), HasSubstr("BF16")));
}

TEST_F(WeightsTest, ReadsShards) {
  const Tensors tensors = tensors_of(small());
  write(tensors);
  const uint64_t whole = fingerprint(small());
  std::filesystem::remove(folder_ + "/model.safetensors");
  Tensors parts[2];
  Json map = Json::object();
  int number = 0;
  for (const auto& [name, tensor] : tensors) {
    const int part = number++ % 2;
    parts[part][name] = tensor;
    map[name] = "part-" + std::to_string(part) + ".safetensors";
  }
  write(parts[0], "part-0.safetensors");
  write(parts[1], "part-1.safetensors");
  std::ofstream(folder_ + "/model.safetensors.index.json") << Json{{"weight_map", map}}.dump();
  EXPECT_EQ(fingerprint(small()), whole);
}

TEST_F(WeightsTest, FingerprintSeesEveryValueAndTheConfig) {
  const BackboneConfig config = small();
  Tensors tensors = tensors_of(config);
  write(tensors);
  const uint64_t before = fingerprint(config);
  EXPECT_EQ(fingerprint(config), before);
  BackboneConfig other = config;
  other.rope.theta = 20000;
  EXPECT_NE(fingerprint(other), before);
  for (auto& [name, tensor] : tensors) {
    for (const size_t at : {size_t(0), tensor.values.size() - 1}) {
      const float kept = tensor.values[at];
      tensor.values[at] = kept + 1e-3f;
      write(tensors);
      EXPECT_NE(fingerprint(config), before) << name << " " << at;
      tensor.values[at] = kept;
    }
  }
  std::swap(tensors["model.layers.0.mlp.up_proj.weight"], tensors["model.layers.1.mlp.up_proj.weight"]);
  write(tensors);
  EXPECT_NE(fingerprint(config), before);
}

}  // namespace
}  // namespace coppice
