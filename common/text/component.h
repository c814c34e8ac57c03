#pragma once
// What reading a component of tokenizer.json (a normalizer, a pre-tokenizer, ...) needs beside Keys: keys
// without a default, and the refusal of a type that is not built. Thread: any. Errors: kInvalid,
// kUnsupported, naming where and key.

#include <string>
#include <string_view>
#include <vector>

#include "common/base/error.h"
#include "common/io/json.h"
#include "common/io/keys.h"

namespace coppice {

inline const Json& required(Keys& keys, std::string_view key) {
  const Json* value = keys.value(key);
  if (value == nullptr) throw invalid("{} is missing", keys.path(key));
  return *value;
}

inline bool required_boolean(Keys& keys, std::string_view key) {
  required(keys, key);
  return keys.boolean(key, false);
}

inline std::string required_text(Keys& keys, std::string_view key) {
  required(keys, key);
  return keys.text(key, "");
}

// A list of components; each is handed to `read` with its place.
template <typename Read>
void read_components(Keys& keys, std::string_view key, Read&& read) {
  const Json& list = required(keys, key);
  if (!list.is_array()) throw invalid("{} is {}; a list is accepted", keys.path(key), shown(list));
  for (size_t i = 0; i < list.size(); ++i) read(list[i], fmt::format("{}[{}]", keys.path(key), i));
}

inline Error refused_type(const Keys& keys, const std::string& type, std::string_view accepted) {
  return unsupported("{} is {}; supported are {}", keys.path("type"), shown(std::string_view(type)),
                     accepted);
}

}  // namespace coppice
