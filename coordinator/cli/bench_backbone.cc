// write_random_backbone.

#include <charconv>
#include <filesystem>
#include <map>

#include "common/base/error.h"
#include "common/base/random.h"
#include "common/io/files.h"
#include "common/io/json.h"
#include "common/io/safetensors.h"
#include "coordinator/cli/bench.h"
#include "worker/backbone/config.h"

namespace coppice {
namespace {

constexpr float kDeviation = 0.02f;

// "hidden=768,...,tied" as numbers; tied is 1.
std::map<std::string, int64_t> read_shape(const std::string& text) {
  std::map<std::string, int64_t> shape = {{"hidden", 0},       {"intermediate", 0}, {"layers", 0},
                                          {"heads", 0},        {"vocabulary", 0},   {"kv_heads", 0},
                                          {"positions", 2048}, {"tied", 0}};
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string word = text.substr(begin, end - begin), key = word.substr(0, word.find('='));
    begin = end + 1;
    int64_t value = word == "tied" ? 1 : 0;
    if (key.size() < word.size())
      std::from_chars(word.data() + key.size() + 1, word.data() + word.size(), value);
    if (!shape.contains(key) || value < 1 || value > (1 << 24)) {
      throw invalid(
          "--shape has \"{}\"; hidden, intermediate, layers, heads, kv_heads, vocabulary, positions with a "
          "number from 1, and tied are accepted",
          word);
    }
    shape[key] = value;
  }
  for (const auto& [key, value] : shape) {
    if (value == 0 && key != "kv_heads" && key != "tied") throw invalid("--shape has no {}", key);
  }
  if (shape["kv_heads"] == 0) shape["kv_heads"] = shape["heads"];
  return shape;
}

Tensor random_tensor(const std::string& name, const Shape& shape) {
  Tensor tensor(shape);
  if (shape.size() == 1) {
    std::fill(tensor.values.begin(), tensor.values.end(), 1.0f);
    return tensor;
  }
  Random random(stream_key(0, Purpose::kInitialValue, {name_hash(name)}));
  for (float& value : tensor.values) value = kDeviation * float(random.normal());
  return tensor;
}

}  // namespace

void write_random_backbone(const std::string& folder, const std::string& shape_text) {
  std::error_code error;
  if (std::filesystem::exists(folder, error) && !std::filesystem::is_empty(folder, error))
    throw invalid("--write-backbone {}: is there already; a new folder or an empty one is accepted", folder);
  auto shape = read_shape(shape_text);
  if (shape["hidden"] % shape["heads"] != 0)
    throw invalid("--shape has hidden {} and heads {}; a multiple is accepted", shape["hidden"],
                  shape["heads"]);
  const Json json = {{"architectures", {"LlamaForCausalLM"}},
                     {"model_type", "llama"},
                     {"hidden_act", "silu"},
                     {"rms_norm_eps", 1e-5},
                     {"rope_theta", 10000.0},
                     {"attention_bias", false},
                     {"mlp_bias", false},
                     {"torch_dtype", "float32"},
                     {"hidden_size", shape["hidden"]},
                     {"intermediate_size", shape["intermediate"]},
                     {"num_hidden_layers", shape["layers"]},
                     {"num_attention_heads", shape["heads"]},
                     {"num_key_value_heads", shape["kv_heads"]},
                     {"head_dim", shape["hidden"] / shape["heads"]},
                     {"vocab_size", shape["vocabulary"]},
                     {"max_position_embeddings", shape["positions"]},
                     {"tie_word_embeddings", shape["tied"] == 1}};
  const BackboneConfig config = parse_backbone_config(json, "--shape");
  std::vector<std::pair<std::string, Tensor>> tensors;
  const auto add = [&](const std::string& name, const Shape& of) {
    tensors.emplace_back(name, random_tensor(name, of));
  };
  for (const Module& module : backbone_modules(config)) {
    if (module.slot == Slot::kHead && config.tied_embeddings) continue;
    add(module.path + ".weight", {module.out, module.in});
  }
  add("model.norm.weight", {config.hidden});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"})
      add(fmt::format("model.layers.{}.{}.weight", layer, norm), {config.hidden});
  }
  std::vector<std::pair<std::string, TensorView>> views;
  for (const auto& [name, tensor] : tensors) views.emplace_back(name, tensor.view());
  std::filesystem::create_directories(folder);
  write_file_atomically(folder + "/config.json", json.dump(1) + "\n");
  write_safetensors(folder + "/model.safetensors", views);
}

}  // namespace coppice
