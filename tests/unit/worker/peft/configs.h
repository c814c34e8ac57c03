#pragma once
// Method configs from their keys on one small Llama of twelve layers, and what a refusal says.

#include <string>

#include "common/base/error.h"
#include "worker/peft/method.h"

namespace coppice {

inline BackboneConfig small_llama(bool tied = false) {
  Json json = {{"model_type", "llama"},
               {"hidden_size", 16},
               {"intermediate_size", 40},
               {"num_hidden_layers", 12},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 2},
               {"head_dim", 4},
               {"vocab_size", 50},
               {"max_position_embeddings", 128},
               {"tie_word_embeddings", tied},
               {"rms_norm_eps", 1e-5},
               {"hidden_act", "silu"}};
  return parse_backbone_config(json, "config.json");
}

inline std::unique_ptr<MethodConfig> configured(const std::string& keys, bool tied = false) {
  return configure_method(parse_json(keys, "keys"), small_llama(tied), "method");
}

// What HF peft 0.21.2 counts for the same keys on the same model stands beside the calls.
inline int64_t parameters(const std::string& keys, bool tied = false) {
  return configured(keys, tied)->trainable_parameters();
}

// "invalid: ..." or "unsupported: ...", or "accepted".
inline std::string refusal(const std::string& keys, bool tied = false) {
  try {
    configured(keys, tied);
  } catch (const Error& error) {
    return (error.code() == ErrorCode::kUnsupported ? "unsupported: " : "invalid: ") +
           std::string(error.what());
  }
  return "accepted";
}

inline const TensorSpec& tensor(const MethodConfig& config, const std::string& name) {
  for (const TensorSpec& spec : config.tensors()) {
    if (spec.name == name) return spec;
  }
  throw not_found("tensor {}", name);
}

}  // namespace coppice
