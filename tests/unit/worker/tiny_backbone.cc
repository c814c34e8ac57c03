#include "tests/unit/worker/tiny_backbone.h"

#include <list>

#include "common/base/random.h"
#include "common/io/files.h"
#include "common/io/json.h"
#include "common/io/safetensors.h"

namespace coppice {
namespace {

// Normal values around `mean`, from the name alone.
Tensor random_tensor(const std::string& name, Shape shape, double mean, double deviation) {
  Tensor tensor(std::move(shape));
  Random random(name_hash(name));
  for (float& value : tensor.values) value = float(mean + deviation * random.normal());
  return tensor;
}

}  // namespace

TinyBackbone::TinyBackbone(const TinyShape& shape) {
  write_config(shape);
  write_weights(shape);
  config_ = read_backbone_config(folder());
}

void TinyBackbone::write_config(const TinyShape& shape) {
  Json json = {{"model_type", shape.family},
               {"hidden_size", shape.hidden},
               {"intermediate_size", shape.intermediate},
               {"num_hidden_layers", shape.layers},
               {"num_attention_heads", shape.heads},
               {"num_key_value_heads", shape.kv_heads},
               {"head_dim", shape.head_dim},
               {"vocab_size", shape.vocabulary},
               {"max_position_embeddings", shape.rope == "dynamic" ? 8 : 512},
               {"rms_norm_eps", 1e-5},
               {"hidden_act", "silu"},
               {"rope_theta", 100.0},
               {"tie_word_embeddings", shape.tied}};
  if (shape.biases) json["attention_bias"] = json["mlp_bias"] = true;
  if (shape.window > 0) json["sliding_window"] = shape.window;
  if (shape.rope != "default") json["rope_scaling"] = {{"rope_type", shape.rope}, {"factor", 2.0}};
  write_file_atomically(folder_.file("config.json"), json.dump());
}

void TinyBackbone::write_weights(const TinyShape& shape) {
  std::list<Tensor> tensors;
  std::vector<std::pair<std::string, TensorView>> views;
  const auto add = [&](const std::string& name, Shape sizes, double mean, double deviation) {
    tensors.push_back(random_tensor(name, std::move(sizes), mean, deviation));
    views.emplace_back(name, tensors.back().view());
  };
  const auto norm = [&](const std::string& name, int64_t size) { add(name + ".weight", {size}, 1, 0.2); };
  const int64_t q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
  add("model.embed_tokens.weight", {shape.vocabulary, shape.hidden}, 0, 1);
  for (int64_t l = 0; l < shape.layers; ++l) {
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
      add(layer + name + ".weight", {out, in}, 0, 0.25);
      if (shape.biases) add(layer + name + ".bias", {out}, 0, 0.2);
    };
    norm(layer + "input_layernorm", shape.hidden);
    norm(layer + "post_attention_layernorm", shape.hidden);
    linear("self_attn.q_proj", q, shape.hidden);
    linear("self_attn.k_proj", kv, shape.hidden);
    linear("self_attn.v_proj", kv, shape.hidden);
    linear("self_attn.o_proj", shape.hidden, q);
    linear("mlp.gate_proj", shape.intermediate, shape.hidden);
    linear("mlp.up_proj", shape.intermediate, shape.hidden);
    linear("mlp.down_proj", shape.hidden, shape.intermediate);
    if (shape.family == "qwen3") {
      norm(layer + "self_attn.q_norm", shape.head_dim);
      norm(layer + "self_attn.k_norm", shape.head_dim);
    }
  }
  norm("model.norm", shape.hidden);
  if (!shape.tied) add("lm_head.weight", {shape.vocabulary, shape.hidden}, 0, 0.4);
  write_safetensors(folder_.file("model.safetensors"), views);
}

}  // namespace coppice
