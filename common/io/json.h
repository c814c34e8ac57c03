#pragma once
// JSON values as the rest of the house uses them: objects keep the order of their keys. Owner of
// nlohmann/json. Errors: kInvalid with file (or what is parsed), line and column.

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace coppice {

using Json = nlohmann::ordered_json;

// what: named in the error, e.g. a path. A key that stands twice in one object, text that is not UTF-8,
// nesting deeper than 256 and anything after the value are errors.
// first_line: the number of the text's first line, for text that is a part of a file.
Json parse_json(std::string_view text, const std::string& what, int64_t first_line = 1);
Json read_json_file(const std::string& path);

// How a value or a text from outside is shown in a message: one line of compact JSON, cut after about 60
// characters.
std::string shown(const Json& value);
std::string shown(std::string_view text);

}  // namespace coppice
