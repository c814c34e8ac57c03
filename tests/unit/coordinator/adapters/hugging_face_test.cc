#include "coordinator/adapters/hugging_face.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>

#include "common/base/random.h"
#include "common/io/files.h"
#include "common/io/safetensors.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

BackboneConfig small_backbone(int64_t layers) {
  Json config =
      parse_json(R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
    "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 20,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false})",
                 "config");
  config["num_hidden_layers"] = layers;
  return parse_backbone_config(config, "config");
}

const char* const kLora =
    R"({"peft_type": "LORA", "r": 3, "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 2}})";
const char* const kLoraAtBothEnds =
    R"({"peft_type": "LORA", "r": 2, "target_modules": ["embed_tokens", "lm_head"]})";
const char* const kPrefix = R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3})";
const char* const kPrompt = R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4})";

class HuggingFaceTest : public ::testing::Test {
 protected:
  std::shared_ptr<const MethodConfig> configure(const std::string& keys) {
    return configure_method(parse_json(keys, "keys"), backbone_, "method");
  }
  static std::vector<Tensor> random_tensors(const MethodConfig& config) {
    std::vector<Tensor> tensors;
    for (const TensorSpec& spec : config.tensors()) {
      Random random(name_hash(spec.name));
      for (float& value : tensors.emplace_back(spec.shape).values) value = float(random.normal());
    }
    return tensors;
  }
  // A folder "a" with an adapter of these keys.
  std::vector<Tensor> write(const std::string& keys) {
    const auto config = configure(keys);
    std::vector<Tensor> tensors = random_tensors(*config);
    export_adapter(adapter_, *config, tensors, "models/small");
    return tensors;
  }
  // Reads the file's tensors, changes them, writes them back.
  void change(const std::function<void(std::map<std::string, Tensor>&)>& edit) {
    std::map<std::string, Tensor> tensors;
    {
      const SafetensorsFile file = SafetensorsFile::open(model_);
      for (const std::string& name : file.names()) tensors[name] = to_f32(file.tensor(name));
    }
    edit(tensors);
    std::vector<std::pair<std::string, TensorView>> views;
    for (const auto& [name, tensor] : tensors) views.emplace_back(name, tensor.view());
    write_safetensors(model_, views);
  }
  Error import_error() {
    return error_of([&] { import_adapter(adapter_, backbone_); });
  }

  TestFolder folder_;
  BackboneConfig backbone_ = small_backbone(2);
  std::string adapter_ = folder_.file("a");
  std::string model_ = adapter_ + "/adapter_model.safetensors";
  std::string config_ = adapter_ + "/adapter_config.json";
};

TEST_F(HuggingFaceTest, EveryMethodComesBackToTheBit) {
  backbone_ = small_backbone(4);
  for (const Method* method : methods()) {
    EXPECT_FALSE(method->examples().empty()) << method->peft_type();
    for (const MethodExample& example : method->examples()) {
      SCOPED_TRACE(example.keys.dump());
      const std::vector<Tensor> tensors = write(example.keys.dump());
      const ImportedAdapter adapter = import_adapter(adapter_, backbone_);
      EXPECT_EQ(&adapter.config->method(), method);
      ASSERT_EQ(adapter.tensors.size(), tensors.size());
      for (size_t t = 0; t < tensors.size(); ++t) {
        EXPECT_EQ(adapter.tensors[t].shape, tensors[t].shape);
        EXPECT_EQ(adapter.tensors[t].values, tensors[t].values) << adapter.config->tensors()[t].name;
      }
      // What was imported exports to the same bytes.
      const std::string config = read_file(config_), model = read_file(model_);
      export_adapter(adapter_, *adapter.config, adapter.tensors, "models/small");
      EXPECT_EQ(read_file(config_), config);
      EXPECT_EQ(read_file(model_), model);
    }
  }
}

TEST_F(HuggingFaceTest, NamesTensorsAsPeftDoes) {
  const std::pair<std::string, std::vector<std::pair<std::string, Shape>>> cases[] = {
      {R"({"peft_type": "LORA", "r": 3, "target_modules": ["q_proj"], "layers_to_transform": [1]})",
       {{"base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight", {3, 16}},
        {"base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight", {16, 3}}}},
      {R"({"peft_type": "LORA", "r": 3, "target_modules": ["embed_tokens"]})",
       {{"base_model.model.model.embed_tokens.lora_embedding_A", {3, 20}},
        {"base_model.model.model.embed_tokens.lora_embedding_B", {16, 3}}}},
      {R"({"peft_type": "LORA", "r": 3, "target_modules": ["lm_head"]})",
       {{"base_model.model.lm_head.lora_A.weight", {3, 16}},
        {"base_model.model.lm_head.lora_B.weight", {20, 3}}}},
      {R"({"peft_type": "IA3", "target_modules": ["model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj"],
           "feedforward_modules": ["down_proj"]})",
       {{"base_model.model.model.layers.0.mlp.down_proj.ia3_l", {1, 24}},
        {"base_model.model.model.layers.0.self_attn.k_proj.ia3_l", {8, 1}}}},
      {R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3})", {{"prompt_embeddings", {3, 2 * 2 * 8}}}},
      {R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4})", {{"prompt_embeddings", {4, 16}}}},
      {R"({"peft_type": "BOTTLENECK", "bottleneck_size": 5, "layers_to_transform": [1]})",
       {{"base_model.model.model.layers.1.mlp.adapter.down.bias", {5}},
        {"base_model.model.model.layers.1.mlp.adapter.down.weight", {5, 16}},
        {"base_model.model.model.layers.1.mlp.adapter.up.bias", {16}},
        {"base_model.model.model.layers.1.mlp.adapter.up.weight", {16, 5}}}},
  };
  for (const auto& [keys, expected] : cases) {
    SCOPED_TRACE(keys);
    write(keys);
    const SafetensorsFile file = SafetensorsFile::open(model_);
    std::vector<std::pair<std::string, Shape>> found;
    for (const std::string& name : file.names()) found.emplace_back(name, file.tensor(name).shape);
    EXPECT_EQ(found, expected);
    EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  }
}

TEST_F(HuggingFaceTest, WritesTheConfigSortedWithItsOrigin) {
  write(R"({"peft_type": "LORA", "r": 3, "lora_alpha": 12, "target_modules": ["q_proj"]})");
  const Json config = read_adapter_config(adapter_);
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["base_model_name_or_path"], "models/small");
  EXPECT_EQ(config["r"], 3);
  EXPECT_EQ(config["lora_alpha"], 12);
  EXPECT_EQ(config["target_modules"], Json::array({"q_proj"}));
  std::vector<std::string> keys;
  for (const auto& item : config.items()) keys.push_back(item.key());
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
}

TEST_F(HuggingFaceTest, NamesAMissingFolderOrFile) {
  const Error none = error_of([&] { import_adapter(folder_.file("none"), backbone_); });
  EXPECT_EQ(none.code(), ErrorCode::kNotFound);
  EXPECT_EQ(none.what(), folder_.file("none") + ": no such folder");
  write(kLora);
  fs::remove(model_);
  EXPECT_EQ(import_error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(import_error().what(), adapter_ + ": holds no adapter_model.safetensors");
  write_file_atomically(adapter_ + "/adapter_model.bin", "x");
  EXPECT_THAT(import_error().what(), HasSubstr("adapter_model.bin is not read"));
  fs::remove(config_);
  EXPECT_EQ(import_error().what(), adapter_ + ": holds no adapter_config.json");
}

TEST_F(HuggingFaceTest, NamesFileAndKeyOfABadConfig) {
  write(kLora);
  const auto with = [&](const std::string& text) {
    write_file_atomically(config_, text);
    return std::string(import_error().what());
  };
  EXPECT_THAT(with("{"), StartsWith(config_ + ":1:"));
  EXPECT_THAT(with("[]"), StartsWith(config_ + ": "));
  EXPECT_THAT(with(R"({"r": 3})"), StartsWith(config_ + ": peft_type is missing"));
  EXPECT_THAT(with(R"({"peft_type": "LORRA"})"),
              AllOf(StartsWith(config_ + ": peft_type is \"LORRA\""), HasSubstr("LORA")));
  EXPECT_THAT(with(R"({"peft_type": "LORA", "r": "eight"})"), StartsWith(config_ + ": r is \"eight\""));
  EXPECT_EQ(with(R"({"peft_type": "LORA", "lora_alfa": 8})"),
            config_ + ": lora_alfa: unknown key; did you mean lora_alpha?");
  EXPECT_THAT(with(R"({"peft_type": "LORA", "use_dora": true})"), StartsWith(config_ + ": use_dora is true"));
}

TEST_F(HuggingFaceTest, RefusesTensorsThatDoNotFitByName) {
  const std::string a = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  const auto error_after = [&](const std::function<void(std::map<std::string, Tensor>&)>& edit) {
    write(kLora);
    change(edit);
    const Error error = import_error();
    EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    EXPECT_THAT(error.what(), StartsWith(model_ + ": "));
    return std::string(error.what());
  };
  EXPECT_THAT(error_after([&](auto& tensors) { tensors.erase(a); }),
              HasSubstr("tensor \"" + a + "\" is missing"));
  EXPECT_THAT(error_after([&](auto& tensors) {
                tensors[a] = Tensor({16, 3});
              }),
              AllOf(HasSubstr(a), HasSubstr("[16, 3]"), HasSubstr("[3, 16]")));
  EXPECT_THAT(error_after([&](auto& tensors) { tensors["extra"] = Tensor({1}); }),
              HasSubstr("tensor \"extra\" is not one of this LORA adapter"));
  EXPECT_THAT(error_after([&](auto& tensors) {
                tensors[a + "s"] = Tensor({3, 16});
              }),
              HasSubstr("the nearest that is: " + a));
}

TEST_F(HuggingFaceTest, RefusesAnAdapterOfAnotherBackbone) {
  write(kLora);
  backbone_.layers = 3;
  backbone_.window.resize(3);
  EXPECT_THAT(import_error().what(), HasSubstr("model.layers.2.self_attn.q_proj.lora_A.weight"));
  backbone_ = small_backbone(2);
  write(kPrefix);
  backbone_.kv_heads = 4;
  EXPECT_THAT(import_error().what(), StartsWith(adapter_));
}

TEST_F(HuggingFaceTest, ReadsHalfPrecisionAndRefusesIntegers) {
  const std::vector<Tensor> tensors = write(kPrompt);
  const auto store = [&](DType dtype, const std::vector<uint16_t>& bits) {
    write_safetensors(model_, {{"prompt_embeddings", {dtype, {4, 16}, std::as_bytes(std::span(bits))}}});
  };
  std::vector<uint16_t> bits;
  for (const float value : tensors[0].values) bits.push_back(to_bf16(value));
  store(DType::kBF16, bits);
  const ImportedAdapter adapter = import_adapter(adapter_, backbone_);
  for (size_t i = 0; i < bits.size(); ++i) EXPECT_EQ(adapter.tensors[0].values[i], from_bf16(bits[i]));
  store(DType::kF16, bits);
  EXPECT_EQ(import_adapter(adapter_, backbone_).tensors[0].values[0], from_f16(bits[0]));

  const std::vector<int32_t> integers(64);
  write_safetensors(model_,
                    {{"prompt_embeddings", {DType::kI32, {4, 16}, std::as_bytes(std::span(integers))}}});
  EXPECT_EQ(import_error().what(),
            model_ + ": tensor \"prompt_embeddings\" has dtype I32; F32, F16 and BF16 are accepted");
}

TEST_F(HuggingFaceTest, PassesOverCopiesOfTheBackbonesOwnWeights) {
  const std::vector<Tensor> tensors = write(kLoraAtBothEnds);
  change([](auto& file) {
    file["base_model.model.model.embed_tokens.base_layer.weight"] = Tensor({20, 16});
    file["base_model.model.lm_head.base_layer.weight"] = Tensor({20, 16});
  });
  EXPECT_EQ(import_adapter(adapter_, backbone_).tensors[0].values, tensors[0].values);
}

TEST_F(HuggingFaceTest, ACutFileIsRefusedEverywhere) {
  write(kPrefix);
  const std::string bytes = read_file(model_);
  for (size_t size = 0; size < bytes.size(); size += 7) {
    std::ofstream(model_, std::ios::binary | std::ios::trunc).write(bytes.data(), std::streamsize(size));
    const Error error = import_error();
    EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    EXPECT_THAT(error.what(), StartsWith(model_ + ": "));
  }
}

TEST_F(HuggingFaceTest, ReplacesAnExportAndNothingElse) {
  write(kLora);
  write_file_atomically(adapter_ + "/README.md", "a card");
  write(kPrefix);
  EXPECT_EQ(read_file(adapter_ + "/README.md"), "a card");  // perhaps the user's own
  write_file_atomically(adapter_ + "/thesis.tex", "years of work");
  EXPECT_EQ(message_of([&] { write(kLora); }),
            adapter_ + ": holds \"thesis.tex\"; a new folder, an empty one or an adapter's is accepted");
  EXPECT_EQ(read_file(adapter_ + "/thesis.tex"), "years of work");
  EXPECT_EQ(error_of([&] {
              const auto config = configure(kLora);
              export_adapter(folder_.file("none/a"), *config, random_tensors(*config), "m");
            }).code(),
            ErrorCode::kNotFound);
  EXPECT_EQ(folder_.entries(), 1u);
}

TEST(CheckAgreesTest, AcceptsTheSameKeysInAnyForm) {
  const Json config =
      parse_json(R"({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"],
    "lora_dropout": 0.0, "use_dora": false, "rank_pattern": {}, "modules_to_save": null, "base_model_name_or_path": "there"})",
                 "config");
  for (const char* given : {"{}", R"({"r": 8})", R"({"r": 8.0, "lora_dropout": 0})",
                            R"({"target_modules": ["q_proj", "v_proj"]})", R"({"r": null})",
                            R"({"use_rslora": false})", R"({"modules_to_save": []})",
                            R"({"base_model_name_or_path": "elsewhere", "task_type": "CAUSAL_LM"})"}) {
    EXPECT_NO_THROW(check_agrees(parse_json(given, "g"), config, "method")) << given;
  }
}

TEST(CheckAgreesTest, NamesTheKeyThatDoesNot) {
  const Json config = parse_json(
      R"({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"]})", "config");
  const auto message = [&](const char* given) {
    const Error error = error_of([&] { check_agrees(parse_json(given, "g"), config, "jobs[0].method"); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    return std::string(error.what());
  };
  EXPECT_EQ(message(R"({"peft_type": "LORA", "r": 4})"),
            "jobs[0].method.r is 4, but 8 in init_adapter; the same or no value is accepted");
  EXPECT_THAT(message(R"({"peft_type": "IA3"})"),
              StartsWith("jobs[0].method.peft_type is \"IA3\", but \"LORA\""));
  EXPECT_THAT(message(R"({"target_modules": ["q_proj"]})"), StartsWith("jobs[0].method.target_modules"));
  EXPECT_THAT(message(R"({"target_modules": "q_proj"})"), StartsWith("jobs[0].method.target_modules"));
  EXPECT_EQ(message(R"({"lora_alfa": 16})"),
            "jobs[0].method.lora_alfa is 16, which the config of init_adapter does not have; did you mean "
            "lora_alpha?");
  EXPECT_EQ(message(R"(8)"), "jobs[0].method is 8; an object of keys is accepted");
}

}  // namespace
}  // namespace coppice
