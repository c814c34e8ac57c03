#pragma once
// The keys that prompt learning methods of HF peft share (PromptLearningConfig). Thread: any. Errors:
// kInvalid, kUnsupported.

#include "common/io/keys.h"
#include "worker/backbone/config.h"

namespace coppice {

// What peft derives from the model and writes down; given, it must agree.
struct PromptShape {
  int64_t token_dim = 0;
  int64_t num_attention_heads = 0;
};

// Reads the common keys and those of PromptLearningConfig; returns num_virtual_tokens.
int64_t read_prompt_keys(Keys& keys, const BackboneConfig& backbone, const PromptShape& shape);
// The same as an export writes them.
Json prompt_config(std::string_view peft_type, int64_t virtual_tokens, const BackboneConfig& backbone,
                   const PromptShape& shape);

}  // namespace coppice
