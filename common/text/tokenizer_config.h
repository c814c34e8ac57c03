#pragma once
// What tokenizer_config.json changes in a tokenizer, as transformers (5.23) honours it beside a
// tokenizer.json: named and further special tokens, tokens with other properties (added_tokens_decoder),
// split_special_tokens. It does not honour add_bos_token and add_eos_token there: tokenizer.json's
// post_processor alone says what is added. The file's other keys (chat templates, lengths, classes) do not
// concern the ids of a text. Thread: one. Errors: kNotFound, kInvalid.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/text/added_tokens.h"

namespace coppice {

struct TokenizerConfig {
  static TokenizerConfig read(const std::string& path);

  std::map<int64_t, AddedToken> added_tokens;  // by the id that the file gives them
  std::vector<AddedToken> special_tokens;      // to be made special tokens where they are no added tokens yet
  std::optional<std::string> bos_token, eos_token;
  bool split_special_tokens = false;
};

}  // namespace coppice
