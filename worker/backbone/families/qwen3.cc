// Qwen3 (Yang et al., 2025), dense: q and k are normed head by head before rotary; a head's size is a key of
// its own.

#include "worker/backbone/families/family.h"

namespace coppice {
namespace {

void read(Keys& keys, const Json& json, BackboneConfig& config) {
  config.qk_norm = true;
  const bool attention_bias = keys.boolean("attention_bias", false);
  config.qkv_bias = config.output_bias = attention_bias;
  keys.neutral("mlp_bias", false);
  read_qwen_windows(keys, json, config);
}

}  // namespace

const Family kQwen3 = {.name = "qwen3",
                       .class_name = "Qwen3",
                       .defaults = {.intermediate = 22016,
                                    .kv_heads = 32,
                                    .head_dim = 128,
                                    .vocabulary = 151936,
                                    .max_positions = 32768,
                                    .bos = {},
                                    .eos = {}},
                       .read = read};

}  // namespace coppice
