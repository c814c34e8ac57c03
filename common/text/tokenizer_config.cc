#include "common/text/tokenizer_config.h"

#include <charconv>

#include "common/text/component.h"

namespace coppice {
namespace {

// A token is written as its text, or as an object with its properties.
AddedToken read_special(const Json& json, const std::string& where) {
  AddedToken token;
  if (json.is_string()) {
    token.content = json.get<std::string>();
    token.normalized = false;
  } else {
    Keys keys(json, where);
    keys.informative("__type");
    token = read_added_token(keys);
    keys.finish();
  }
  token.special = true;
  return token;
}

std::map<int64_t, AddedToken> read_added_tokens(const Json& json, const std::string& where) {
  if (!json.is_object()) throw invalid("{} is {}; an object is accepted", where, shown(json));
  std::map<int64_t, AddedToken> tokens;
  for (const auto& [key, value] : json.items()) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) {
      throw invalid("{}: key {}; ids of tokens are accepted", where, shown(std::string_view(key)));
    }
    Keys keys(value, where + "." + key);
    keys.informative("__type");
    tokens[id] = read_added_token(keys);
    keys.finish();
  }
  return tokens;
}

}  // namespace

TokenizerConfig TokenizerConfig::read(const std::string& path) {
  Keys keys(read_json_file(path), path);
  TokenizerConfig config;
  if (const Json* tokens = keys.value("added_tokens_decoder")) {
    config.added_tokens = read_added_tokens(*tokens, keys.path("added_tokens_decoder"));
  }
  for (const char* key :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const Json* value = keys.value(key);
    if (value == nullptr) continue;
    config.special_tokens.push_back(read_special(*value, keys.path(key)));
    const std::string& content = config.special_tokens.back().content;
    if (key == std::string_view("bos_token")) config.bos_token = content;
    if (key == std::string_view("eos_token")) config.eos_token = content;
  }
  const Json* further = keys.value("extra_special_tokens");
  const std::string further_key =
      further != nullptr && !further->empty() ? "extra_special_tokens" : "additional_special_tokens";
  if ((further = keys.value(further_key)) != nullptr) {
    if (!further->is_array() && !further->is_object()) {
      throw invalid("{} is {}; a list or an object of tokens is accepted", keys.path(further_key),
                    shown(*further));
    }
    for (const auto& [key, value] : further->items()) {
      config.special_tokens.push_back(read_special(value, keys.path(further_key) + "." + key));
    }
  }
  config.split_special_tokens = keys.boolean("split_special_tokens", false);
  return config;
}

}  // namespace coppice
