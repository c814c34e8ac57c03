#include "worker/peft/prompt_keys.h"

#include "common/base/error.h"
#include "worker/peft/targets.h"

namespace coppice {

int64_t read_prompt_keys(Keys& keys, const BackboneConfig& backbone, const PromptShape& shape) {
  read_common_keys(keys);
  keys.neutral("modules_to_save", Json::array());
  const auto count =
      keys.optional_integer("num_virtual_tokens", {.minimum = 1, .maximum = double(backbone.max_positions)});
  if (!count) {
    throw invalid("{} is missing; a whole number of at least 1 is accepted", keys.path("num_virtual_tokens"));
  }
  keys.neutral("num_transformer_submodules", 1);
  keys.neutral("token_dim", shape.token_dim);
  keys.neutral("num_attention_heads", shape.num_attention_heads);
  keys.neutral("num_layers", backbone.layers);
  return *count;
}

Json prompt_config(std::string_view peft_type, int64_t virtual_tokens, const BackboneConfig& backbone,
                   const PromptShape& shape) {
  Json config = common_config(peft_type);
  config["num_virtual_tokens"] = virtual_tokens;
  config["token_dim"] = shape.token_dim;
  config["num_transformer_submodules"] = 1;
  config["num_attention_heads"] = shape.num_attention_heads;
  config["num_layers"] = backbone.layers;
  config["modules_to_save"] = nullptr;
  return config;
}

}  // namespace coppice
