#pragma once
// `coppice generate --backbone PATH [--adapter PATH] --prompt TEXT [--max-new-tokens N] [--temperature T
// --top-p P --seed N]`: completes prompts with a key-value cache and writes the text to stdout as it comes, a
// newline after each completion. With several prompts each completion is headed by its prompt. A completion
// ends at an end-of-sequence token: those of generation_config.json, of config.json and of the tokenizer all
// count.
//
// Thread: main. Errors: kInvalid, kNotFound before the weights are loaded; kFailed where logits are not
// numbers.

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/cli/inference.h"
#include "worker/sampler.h"

namespace coppice {

struct GenerateOptions : InferenceOptions, SamplerOptions {
  std::vector<std::string> prompts;
  int64_t max_new_tokens = 128;
};

int run_generate(const GenerateOptions& options);

}  // namespace coppice
