#include "worker/backbone/config.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "common/base/error.h"
#include "worker/backbone/families/family.h"
#include "worker/backbone/rope.h"

namespace coppice {
namespace {

// Sizes above these are damage, not models; within them no product of two overflows.
constexpr Range kSize = {.minimum = 1, .maximum = 1 << 30};
constexpr Range kCount = {.minimum = 1, .maximum = 1 << 16};

// Keys that say nothing about the arithmetic of a causal language model: provenance, what a file was saved
// as, training of the backbone itself, shapes of outputs in Python, and defaults of generation that older
// versions kept here.
constexpr std::array kInformative = {"_name_or_path",
                                     "name_or_path",
                                     "_commit_hash",
                                     "transformers_version",
                                     "architectures",
                                     "torch_dtype",
                                     "dtype",
                                     "tokenizer_class",
                                     "is_llama_config",
                                     "unsloth_fixed",
                                     "unsloth_version",
                                     "_attn_implementation",
                                     "attn_implementation",
                                     "_attn_implementation_autoset",
                                     "_attn_implementation_internal",
                                     "_flash_attn_2_enabled",
                                     "initializer_range",
                                     "use_cache",
                                     "is_decoder",
                                     "output_attentions",
                                     "output_hidden_states",
                                     "return_dict",
                                     "use_return_dict",
                                     "torchscript",
                                     "use_bfloat16",
                                     "tf_legacy_loss",
                                     "chunk_size_feed_forward",
                                     "keys_to_ignore_at_inference",
                                     "id2label",
                                     "label2id",
                                     "num_labels",
                                     "problem_type",
                                     "finetuning_task",
                                     "task_specific_params",
                                     "prefix",
                                     "sep_token_id",
                                     "decoder_start_token_id",
                                     "max_length",
                                     "min_length",
                                     "do_sample",
                                     "early_stopping",
                                     "num_beams",
                                     "temperature",
                                     "top_k",
                                     "top_p",
                                     "typical_p",
                                     "repetition_penalty",
                                     "length_penalty",
                                     "no_repeat_ngram_size",
                                     "encoder_no_repeat_ngram_size",
                                     "bad_words_ids",
                                     "num_return_sequences",
                                     "output_scores",
                                     "return_dict_in_generate",
                                     "forced_bos_token_id",
                                     "forced_eos_token_id",
                                     "remove_invalid_values",
                                     "exponential_decay_length_penalty",
                                     "suppress_tokens",
                                     "begin_suppress_tokens",
                                     "epsilon_cutoff",
                                     "eta_cutoff",
                                     "encoder_repetition_penalty",
                                     "num_assistant_tokens",
                                     "num_assistant_tokens_schedule",
                                     "assistant_confidence_threshold",
                                     "assistant_lookbehind",
                                     "target_lookbehind",
                                     "num_beam_groups",
                                     "diversity_penalty"};

// Keys that other models put to use; here only their absence is supported.
constexpr std::array kMustBeNull = {
    "quantization_config",   "compression_config",      "auto_map",
    "per_layer_config",      "final_logit_softcapping", "attn_logit_softcapping",
    "query_pre_attn_scalar", "logits_scaling",          "logit_scale",
    "embedding_multiplier",  "residual_multiplier",     "attention_multiplier",
    "num_experts",           "num_local_experts",       "no_rope_layers"};

const Family& find_family(const Json& json, const std::string& what) {
  const auto type = json.find("model_type");
  std::string known;
  for (const Family* family : backbone_families()) {
    if (type != json.end() && *type == family->name) return *family;
    known += (known.empty()                          ? ""
              : family == backbone_families().back() ? " and "
                                                     : ", ") +
             std::string(family->name);
  }
  if (type == json.end()) throw unsupported("{}: model_type is missing; {} are supported", what, known);
  throw unsupported("{}.model_type is {}; {} are supported", what, shown(*type), known);
}

Activation read_activation(Keys& keys) {
  // Names that transformers gives to one formula stand together.
  const std::string name =
      keys.choice("hidden_act", "silu", {"silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu"});
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "relu") return Activation::kRelu;
  return Activation::kGeluTanh;
}

// One id, or the first of several. Absent: the family's; null or -1: none.
std::optional<int32_t> read_token(Keys& keys, const Json& json, std::string_view key,
                                  std::optional<int32_t> absent) {
  if (!json.contains(std::string(key))) {
    keys.informative(key);
    return absent;
  }
  for (const int64_t id : keys.integers(key)) {
    if (id < -1 || id > INT32_MAX) {
      throw invalid("{} is {}; a token id or null is accepted", keys.path(key), id);
    }
    return id == -1 ? std::nullopt : std::optional(int32_t(id));
  }
  return std::nullopt;
}

void read_sizes(Keys& keys, const Json& json, const FamilyDefaults& defaults, BackboneConfig& config) {
  config.hidden = keys.integer("hidden_size", defaults.hidden, kSize);
  config.intermediate = keys.integer("intermediate_size", defaults.intermediate, kSize);
  config.layers = keys.integer("num_hidden_layers", defaults.layers, kCount);
  config.heads = keys.integer("num_attention_heads", defaults.heads, kCount);
  // null means one key head a query head; absent means what the family's class says.
  const bool absent = !json.contains("num_key_value_heads");
  config.kv_heads = keys.integer("num_key_value_heads",
                                 absent && defaults.kv_heads != 0 ? defaults.kv_heads : config.heads, kCount);
  if (config.heads % config.kv_heads != 0) {
    throw invalid("{} is {}; a divisor of num_attention_heads, {}, is accepted",
                  keys.path("num_key_value_heads"), config.kv_heads, config.heads);
  }
  config.head_dim = keys.integer("head_dim", defaults.head_dim, {.minimum = 0, .maximum = 1 << 14});
  if (config.head_dim == 0) {
    if (config.hidden % config.heads != 0) {
      throw invalid("{} is {}; without head_dim a multiple of num_attention_heads, {}, is accepted",
                    keys.path("hidden_size"), config.hidden, config.heads);
    }
    config.head_dim = config.hidden / config.heads;
  }
  if (config.head_dim % 2 != 0 || config.head_dim < 4) {
    throw unsupported("{} is {}; an even number of at least 4 is supported", keys.path("head_dim"),
                      config.head_dim);
  }
  config.vocabulary = keys.integer("vocab_size", defaults.vocabulary, kSize);
  config.max_positions = keys.integer("max_position_embeddings", defaults.max_positions, kSize);
}

void check_classes(const Json& json, const Family& family, const std::string& what) {
  const auto found = json.find("architectures");
  if (found == json.end() || found->is_null()) return;
  const std::string causal = std::string(family.class_name) + "ForCausalLM",
                    bare = std::string(family.class_name) + "Model";
  if (*found == Json::array({causal}) || *found == Json::array({bare})) return;
  throw unsupported("{}.architectures is {}; [\"{}\"] and [\"{}\"] are supported", what, shown(*found),
                    causal, bare);
}

void refuse_other_arithmetic(Keys& keys) {
  keys.neutral("pretraining_tp", 1);
  keys.neutral("attention_dropout", 0);
  keys.neutral("hidden_dropout", 0);
  keys.neutral("resid_pdrop", 0);
  keys.neutral("embd_pdrop", 0);
  keys.neutral("rope_interleaved", false);
  keys.neutral("add_cross_attention", false);
  keys.neutral("cross_attention_hidden_size", Json());
  keys.neutral("is_encoder_decoder", false);
  keys.neutral("tie_encoder_decoder", false);
  keys.neutral("pruned_heads", Json::object());
  for (const char* key : kMustBeNull) keys.neutral(key, Json());
  for (const char* key : kInformative) keys.informative(key);
}

}  // namespace

std::string_view module_name(Slot slot) {
  switch (slot) {
    case Slot::kQuery:
      return "self_attn.q_proj";
    case Slot::kKey:
      return "self_attn.k_proj";
    case Slot::kValue:
      return "self_attn.v_proj";
    case Slot::kAttentionOut:
      return "self_attn.o_proj";
    case Slot::kGate:
      return "mlp.gate_proj";
    case Slot::kUp:
      return "mlp.up_proj";
    case Slot::kDown:
      return "mlp.down_proj";
    case Slot::kEmbedding:
      return "embed_tokens";
    case Slot::kHead:
      return "lm_head";
  }
  return {};
}

std::string Module::name() const {
  return path.substr(path.rfind('.') + 1);
}

BackboneConfig parse_backbone_config(const Json& json, const std::string& what) {
  Keys keys(json, what);
  const Family& family = find_family(json, what);
  keys.informative("model_type");
  check_classes(json, family, what);

  BackboneConfig config;
  config.family = family.name;
  read_sizes(keys, json, family.defaults, config);
  config.window.assign(size_t(config.layers), 0);
  config.norm_epsilon = float(keys.number("rms_norm_eps", 1e-6, {.minimum = 0, .maximum = 1}));
  config.activation = read_activation(keys);
  config.rope = read_rope(keys, config.max_positions);
  config.tied_embeddings = keys.boolean("tie_word_embeddings", false);
  config.bos = read_token(keys, json, "bos_token_id", family.defaults.bos);
  config.eos = read_token(keys, json, "eos_token_id", family.defaults.eos);
  config.pad = read_token(keys, json, "pad_token_id", std::nullopt);
  family.read(keys, json, config);
  refuse_other_arithmetic(keys);
  keys.finish();
  return config;
}

BackboneConfig read_backbone_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  return parse_backbone_config(read_json_file(path), path);
}

std::vector<Module> backbone_modules(const BackboneConfig& config) {
  const int64_t hidden = config.hidden, wide = config.intermediate;
  std::vector<Module> modules;
  modules.push_back({Slot::kEmbedding, -1, "model.embed_tokens", config.vocabulary, hidden, false});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const auto add = [&](Slot slot, int64_t out, int64_t in, bool bias) {
      modules.push_back(
          {slot, layer, fmt::format("model.layers.{}.{}", layer, module_name(slot)), out, in, bias});
    };
    add(Slot::kQuery, config.q_size(), hidden, config.qkv_bias);
    add(Slot::kKey, config.kv_size(), hidden, config.qkv_bias);
    add(Slot::kValue, config.kv_size(), hidden, config.qkv_bias);
    add(Slot::kAttentionOut, hidden, config.q_size(), config.output_bias);
    add(Slot::kGate, wide, hidden, config.mlp_bias);
    add(Slot::kUp, wide, hidden, config.mlp_bias);
    add(Slot::kDown, hidden, wide, config.mlp_bias);
  }
  modules.push_back({Slot::kHead, config.layers, "lm_head", config.vocabulary, hidden, false});
  return modules;
}

}  // namespace coppice
