#pragma once
// What a backbone is, as numbers: read from a Hugging Face config.json by its family (families/*.cc), checked, and from then on
// the only description that blocks, methods and planners see. A family is data over one shared block; whatever in a config would
// change the arithmetic and is not described here is refused by name. Thread: any. Errors: kNotFound, kInvalid, kUnsupported.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/io/json.h"
#include "kernels/backend.h"

namespace coppice {

// Rotary position embedding (Su et al., 2021) and its extensions, as transformers' modeling_rope_utils computes them.
struct Rope {
  enum class Type { kDefault, kLinear, kDynamic, kLlama3, kYarn };
  Type type = Type::kDefault;
  double theta = 10000;
  double factor = 1;
  int64_t original_max_positions = 0;  // of pretraining: llama3, yarn, dynamic
  double low_freq_factor = 1, high_freq_factor = 4;          // llama3
  double beta_fast = 32, beta_slow = 1;                      // yarn
  std::optional<double> attention_factor, mscale, mscale_all_dim;  // yarn
  bool truncate = true;                                      // yarn
};

struct BackboneConfig {
  std::string family;  // model_type: "llama", "mistral", "qwen2", "qwen3"
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocabulary = 0;
  int64_t max_positions = 0;
  float norm_epsilon = 0;
  Activation activation = Activation::kSilu;
  Rope rope;
  bool tied_embeddings = false;
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool qk_norm = false;                 // RMSNorm over each head of q and k before rotary (Qwen3)
  std::vector<int64_t> window;          // per layer: a query sees the last window[l] positions; 0: all
  std::optional<int32_t> bos, eos, pad;

  int64_t q_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
};

// The projections of a block, in canonical order, and the two ends of the backbone.
enum class Slot { kQuery, kKey, kValue, kAttentionOut, kGate, kUp, kDown, kEmbedding, kHead };

// Where a module stands in its block: "self_attn.q_proj"; of the two ends "embed_tokens" and "lm_head".
std::string_view module_name(Slot slot);

// A module that methods may target: where it stands, what HF calls it, and its weight's shape [out, in].
struct Module {
  Slot slot;
  int64_t layer;     // -1 for the embedding, layers for the head
  std::string path;  // "model.layers.3.self_attn.q_proj", "model.embed_tokens", "lm_head"
  int64_t out = 0, in = 0;
  bool bias = false;

  std::string name() const;  // the last part of path
};

BackboneConfig read_backbone_config(const std::string& folder);  // folder/config.json
BackboneConfig parse_backbone_config(const Json& json, const std::string& what);

// All modules of the backbone in canonical order: embedding, layer by layer in the order of Slot, head.
std::vector<Module> backbone_modules(const BackboneConfig& config);

// Inverse frequencies (head_dim / 2) for a sequence of this length (only dynamic depends on it), and the factor on cos and sin.
struct RopeFrequencies {
  std::vector<float> inverse;
  float scale = 1;
};
RopeFrequencies rope_frequencies(const BackboneConfig& config, int64_t sequence_length);

}  // namespace coppice
