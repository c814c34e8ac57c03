// Llama 1 to 3 (Touvron et al., 2023; Grattafiori et al., 2024) and what is built like them.

#include "worker/backbone/families/family.h"

namespace coppice {
namespace {

void read(Keys& keys, const Json&, BackboneConfig& config) {
  const bool attention_bias = keys.boolean("attention_bias", false);
  config.qkv_bias = config.output_bias = attention_bias;
  config.mlp_bias = keys.boolean("mlp_bias", false);
  keys.neutral("sliding_window", Json());
  keys.neutral("use_sliding_window", false);
  check_layer_types(keys, config);
}

}  // namespace

const Family kLlama = {
    .name = "llama",
    .class_name = "Llama",
    .defaults = {.intermediate = 11008, .vocabulary = 32000, .max_positions = 2048, .bos = 1, .eos = 2},
    .read = read};

}  // namespace coppice
