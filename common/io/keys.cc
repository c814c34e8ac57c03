#include "common/io/keys.h"

#include <algorithm>
#include <cmath>

#include "common/base/error.h"

namespace coppice {
namespace {

// 2^63: the first double above every int64_t.
constexpr double kInt64End = 9223372036854775808.0;

std::string number_text(double value) {
  return Json(value).dump();
}
// A bound as a reader writes it: 1, not 1.0.
std::string bound_text(double value) {
  if (std::nearbyint(value) == value && std::abs(value) < 1e15) return std::to_string(int64_t(value));
  return number_text(value);
}

std::string accepted(std::string_view kind, const Range& range) {
  std::string text(kind);
  const bool low = std::isfinite(range.minimum), high = std::isfinite(range.maximum);
  if (low && high && !range.open_minimum) {
    text += " from " + bound_text(range.minimum) + " to " + bound_text(range.maximum);
  } else {
    if (low) text += (range.open_minimum ? " above " : " of at least ") + bound_text(range.minimum);
    if (low && high) text += " and";
    if (high) text += " of at most " + bound_text(range.maximum);
  }
  return text + " is accepted";
}

bool inside(double value, const Range& range) {
  return (range.open_minimum ? value > range.minimum : value >= range.minimum) && value <= range.maximum;
}

// The value as a whole number, if it is one: 8 and 8.0, but not true or "8".
std::optional<int64_t> whole(const Json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t bits = value.get<uint64_t>();
    if (bits > uint64_t(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return int64_t(bits);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (std::nearbyint(number) != number || number < -kInt64End || number >= kInt64End) return std::nullopt;
  return int64_t(number);
}

// A key as it stands in a path; one with spaces, dots or worse is quoted.
std::string key_text(std::string_view key) {
  const bool plain = !key.empty() && key.size() <= 60 && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
  });
  return plain ? std::string(key) : shown(key);
}

}  // namespace

Keys::Keys(Json json, std::string where) : json_(std::move(json)), where_(std::move(where)) {
  if (!json_.is_object()) {
    const std::string object = where_.empty() || where_.ends_with(": ") ? where_ + "the document" : where_;
    throw invalid("{} is {}; an object of keys is accepted", object, shown(json_));
  }
}

const Json* Keys::find(std::string_view key) {
  asked_.emplace(key);
  const auto found = json_.find(std::string(key));
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

std::string Keys::path(std::string_view key) const {
  return where_.empty() || where_.ends_with(": ") ? where_ + key_text(key) : where_ + "." + key_text(key);
}

std::optional<double> Keys::optional_number(std::string_view key, Range range) {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (value->is_number()) {
    const double number = value->get<double>();
    if (std::isfinite(number) && inside(number, range)) return number;
  }
  throw invalid("{} is {}; {}", path(key), shown(*value), accepted("a number", range));
}

std::optional<int64_t> Keys::optional_integer(std::string_view key, Range range) {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (const auto number = whole(*value); number && inside(double(*number), range)) return number;
  throw invalid("{} is {}; {}", path(key), shown(*value), accepted("a whole number", range));
}

std::optional<std::string> Keys::optional_text(std::string_view key) {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) throw invalid("{} is {}; a string is accepted", path(key), shown(*value));
  return value->get<std::string>();
}

double Keys::number(std::string_view key, double fallback, Range range) {
  return optional_number(key, range).value_or(fallback);
}

int64_t Keys::integer(std::string_view key, int64_t fallback, Range range) {
  return optional_integer(key, range).value_or(fallback);
}

bool Keys::boolean(std::string_view key, bool fallback) {
  const Json* value = find(key);
  if (!value) return fallback;
  if (!value->is_boolean()) throw invalid("{} is {}; true or false is accepted", path(key), shown(*value));
  return value->get<bool>();
}

std::string Keys::text(std::string_view key, std::string_view fallback) {
  return optional_text(key).value_or(std::string(fallback));
}

std::string Keys::choice(std::string_view key, std::string_view fallback,
                         std::initializer_list<std::string_view> choices) {
  const Json* value = find(key);
  if (!value) return std::string(fallback);
  if (value->is_string()) {
    const auto& text = value->get_ref<const std::string&>();
    if (std::find(choices.begin(), choices.end(), text) != choices.end()) return text;
  }
  std::string list;
  for (auto it = choices.begin(); it != choices.end(); ++it) {
    if (it != choices.begin()) list += it + 1 == choices.end() ? " or " : ", ";
    list += *it;
  }
  throw invalid("{} is {}; {} is accepted", path(key), shown(*value), list);
}

std::vector<std::string> Keys::texts(std::string_view key) {
  const Json* value = find(key);
  if (!value) return {};
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) {
    throw invalid("{} is {}; a string or a list of strings is accepted", path(key), shown(*value));
  }
  std::vector<std::string> texts;
  for (size_t i = 0; i < value->size(); ++i) {
    const Json& element = (*value)[i];
    if (!element.is_string())
      throw invalid("{}[{}] is {}; a string is accepted", path(key), i, shown(element));
    texts.push_back(element.get<std::string>());
  }
  return texts;
}

std::vector<int64_t> Keys::integers(std::string_view key) {
  const Json* value = find(key);
  if (!value) return {};
  if (const auto number = whole(*value)) return {*number};
  if (!value->is_array()) {
    throw invalid("{} is {}; a whole number or a list of them is accepted", path(key), shown(*value));
  }
  std::vector<int64_t> numbers;
  for (size_t i = 0; i < value->size(); ++i) {
    const auto number = whole((*value)[i]);
    if (!number) {
      throw invalid("{}[{}] is {}; a whole number is accepted", path(key), i, shown((*value)[i]));
    }
    numbers.push_back(*number);
  }
  return numbers;
}

const Json* Keys::value(std::string_view key) {
  return find(key);
}

bool Keys::has(std::string_view key) const {
  const auto found = json_.find(std::string(key));
  return found != json_.end() && !found->is_null();
}

void Keys::neutral(std::string_view key, const Json& value) {
  // Not braces: an initializer_list of Json would turn into one Json array.
  const std::initializer_list<Json> one = {value};
  neutral(key, one);
}

void Keys::neutral(std::string_view key, std::initializer_list<Json> values) {
  const Json* found = find(key);
  if (!found || std::find(values.begin(), values.end(), *found) != values.end()) return;
  std::string list;
  for (auto it = values.begin(); it != values.end(); ++it) {
    if (it != values.begin()) list += it + 1 == values.end() ? " or " : ", ";
    list += shown(*it);
  }
  throw unsupported("{} is {}; only {} is supported", path(key), shown(*found), list);
}

void Keys::informative(std::string_view key) {
  asked_.emplace(key);
}

void Keys::finish() {
  for (const auto& [key, value] : json_.items()) {
    if (asked_.contains(key)) continue;
    const std::string near = nearest(key, {asked_.begin(), asked_.end()});
    if (near.empty()) throw invalid("{}: unknown key", path(key));
    throw invalid("{}: unknown key; did you mean {}?", path(key), near);
  }
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr size_t kMaxLength = 256;  // the distance is quadratic, and nobody mistypes a page
  if (word.size() > kMaxLength) return {};
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > kMaxLength) continue;
    // Levenshtein distance, one row at a time: row[j] is that of word[0, i) and candidate[0, j).
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j < row.size(); ++j) {
        const size_t replaced = diagonal + (word[i - 1] != candidate[j - 1]);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
      }
    }
    // Nothing in common is no likeness, however short the words.
    if (row.back() < best_distance && row.back() < std::max(word.size(), candidate.size())) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace coppice
