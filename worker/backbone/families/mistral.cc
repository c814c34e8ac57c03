// Mistral (Jiang et al., 2023): no biases, every layer with the same window or none.

#include <algorithm>

#include "worker/backbone/families/family.h"

namespace coppice {
namespace {

void read(Keys& keys, const Json& json, BackboneConfig& config) {
  std::fill(config.window.begin(), config.window.end(), read_window(keys, json, 4096));
  keys.neutral("attention_bias", false);
  keys.neutral("mlp_bias", false);
  keys.neutral("use_sliding_window", false);
  check_layer_types(keys, config);
}

}  // namespace

const Family kMistral = {.name = "mistral",
                         .class_name = "Mistral",
                         .defaults = {.intermediate = 14336,
                                      .kv_heads = 8,
                                      .vocabulary = 32000,
                                      .max_positions = 131072,
                                      .bos = 1,
                                      .eos = 2},
                         .read = read};

}  // namespace coppice
