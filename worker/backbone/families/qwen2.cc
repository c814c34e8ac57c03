// Qwen2 and Qwen2.5 (Yang et al., 2024): biases on q, k and v; layers above max_window_layers may have a
// window.

#include "worker/backbone/families/family.h"

namespace coppice {
namespace {

void read(Keys& keys, const Json& json, BackboneConfig& config) {
  config.qkv_bias = true;
  keys.neutral("attention_bias", true);
  keys.neutral("mlp_bias", false);
  keys.neutral("use_mrope", false);
  read_qwen_windows(keys, json, config);
}

}  // namespace

const Family kQwen2 = {.name = "qwen2",
                       .class_name = "Qwen2",
                       .defaults = {.intermediate = 22016,
                                    .kv_heads = 32,
                                    .vocabulary = 151936,
                                    .max_positions = 32768,
                                    .bos = {},
                                    .eos = {}},
                       .read = read};

}  // namespace coppice
