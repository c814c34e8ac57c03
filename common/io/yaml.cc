#include "common/io/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/io/files.h"

namespace coppice {
namespace {

constexpr size_t kMaxBytes = size_t(64) << 20;
constexpr size_t kMaxDepth = 256;

// The end of the run of characters from `at` on that the predicate accepts.
template <typename Predicate>
size_t run_end(std::string_view text, size_t at, Predicate accepts) {
  while (at < text.size() && accepts(text[at])) ++at;
  return at;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_octal(char c) {
  return c >= '0' && c <= '7';
}
bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

template <typename... Words>
bool is_one_of(std::string_view text, Words... words) {
  return ((text == words) || ...);
}

// The three tests below are the regular expressions of the YAML 1.2 core schema, section 10.3.2.
bool is_based_int(std::string_view text) {
  if (text.size() < 3 || text[0] != '0') return false;
  if (text[1] == 'o') return run_end(text, 2, is_octal) == text.size();
  return text[1] == 'x' && run_end(text, 2, is_hex) == text.size();
}

bool is_decimal_int(std::string_view text) {
  const size_t first = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  return first < text.size() && run_end(text, first, is_digit) == text.size();
}

bool is_float(std::string_view text) {
  size_t at = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  const size_t whole_end = run_end(text, at, is_digit);
  bool digits = whole_end > at;
  at = whole_end;
  if (at < text.size() && text[at] == '.') {
    const size_t fraction_end = run_end(text, at + 1, is_digit);
    digits = digits || fraction_end > at + 1;
    at = fraction_end;
  }
  if (!digits) return false;
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
    const size_t exponent_end = run_end(text, at, is_digit);
    if (exponent_end == at) return false;
    at = exponent_end;
  }
  return at == text.size();
}

bool is_not_finite(std::string_view text) {
  if (is_one_of(text, ".nan", ".NaN", ".NAN")) return true;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return is_one_of(text, ".inf", ".Inf", ".INF");
}

std::optional<Json> integer_of(std::string_view text) {
  int base = 10;
  if (is_based_int(text)) {
    base = text[1] == 'o' ? 8 : 16;
    text.remove_prefix(2);
  } else if (text[0] == '+') {
    text.remove_prefix(1);
  }
  const char* end = text.data() + text.size();
  if (int64_t value; std::from_chars(text.data(), end, value, base).ec == std::errc()) return Json(value);
  if (uint64_t value; std::from_chars(text.data(), end, value, base).ec == std::errc()) return Json(value);
  return std::nullopt;
}

std::optional<Json> float_of(std::string_view text) {
  if (text[0] == '+') text.remove_prefix(1);
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || !std::isfinite(value)) return std::nullopt;
  return Json(value);
}

// What it costs to use a value once more.
struct Cost {
  size_t bytes = 0;
  size_t depth = 0;
};

Cost cost_of(const Json& value) {
  Cost cost = {sizeof(Json), 0};
  if (value.is_string()) cost.bytes += value.get_ref<const std::string&>().size();
  if (!value.is_structured()) return cost;
  for (const auto& item : value.items()) {
    const Cost inner = cost_of(item.value());
    cost.bytes += inner.bytes + (value.is_object() ? sizeof(std::string) + item.key().size() : 0);
    cost.depth = std::max(cost.depth, inner.depth);
  }
  ++cost.depth;
  return cost;
}

struct Anchored {
  Json value;
  Cost cost;
};

class Builder : public YAML::EventHandler {
 public:
  explicit Builder(const std::string& what) : what_(what) {}
  Json take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (wants_key()) throw error_at(mark, "a key is empty; a string is accepted");
    finish_value(Json(), mark, anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (wants_key()) throw error_at(mark, "an alias stands as a key; a string is accepted");
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw error_at(mark, "an alias stands inside the value that it names");
    charge(found->second.cost.bytes, mark);
    if (open_.size() + found->second.cost.depth > kMaxDepth)
      throw error_at(mark, "nested deeper than 256 levels");
    finish_value(found->second.value, mark, 0);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    charge(sizeof(Json) + text.size(), mark);
    if (!wants_key()) return finish_value(scalar(mark, tag, text), mark, anchor);
    Open& map = open_.back();
    if (anchor != 0) throw error_at(mark, "an anchor stands at a key; anchors are accepted at values");
    map.merges = tag == "?" && text == "<<";
    if (!map.keys.insert(text).second) {
      throw error_at(mark, "key " + shown(std::string_view(text)) + " stands twice in one mapping");
    }
    map.key = text;
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    if (!is_one_of(tag, "", "?", "!", "tag:yaml.org,2002:seq")) throw unknown_tag(mark, tag);
    open(mark, anchor, Json::array());
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    if (!is_one_of(tag, "", "?", "!", "tag:yaml.org,2002:map")) throw unknown_tag(mark, tag);
    open(mark, anchor, Json::object());
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    Json value;
    YAML::anchor_t anchor;
    YAML::Mark mark;
    std::optional<std::string> key;  // the key whose value comes next
    std::set<std::string> keys;
    bool merges = false;  // that key is a plain <<
    std::vector<Json> merged;
  };

  bool wants_key() const { return !open_.empty() && open_.back().value.is_object() && !open_.back().key; }

  void open(const YAML::Mark& mark, YAML::anchor_t anchor, Json empty) {
    if (wants_key()) throw error_at(mark, "a list or mapping stands as a key; a string is accepted");
    if (open_.size() == kMaxDepth) throw error_at(mark, "nested deeper than 256 levels");
    charge(sizeof(Json), mark);
    Open level;
    level.value = std::move(empty);
    level.anchor = anchor;
    level.mark = mark;
    open_.push_back(std::move(level));
  }

  void close() {
    Open level = std::move(open_.back());
    open_.pop_back();
    // What a mapping says itself comes before what it merges, and an earlier merge before a later one.
    for (const Json& source : level.merged) {
      for (const auto& item : source.items()) {
        if (!level.value.contains(item.key())) level.value[item.key()] = item.value();
      }
    }
    finish_value(std::move(level.value), level.mark, level.anchor);
  }

  void finish_value(Json value, const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0) {
      const Cost cost = cost_of(value);
      charge(cost.bytes, mark);
      anchors_[anchor] = {value, cost};
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return;
    }
    Open& parent = open_.back();
    if (parent.value.is_array()) {
      parent.value.push_back(std::move(value));
      return;
    }
    const std::string key = *std::exchange(parent.key, std::nullopt);
    if (!std::exchange(parent.merges, false)) {
      parent.value[key] = std::move(value);
      return;
    }
    if (!value.is_array()) value = Json::array({std::move(value)});
    for (Json& source : value) {
      if (!source.is_object()) throw error_at(mark, "<< is " + shown(source) + "; a mapping is accepted");
      parent.merged.push_back(std::move(source));
    }
  }

  Json scalar(const YAML::Mark& mark, const std::string& tag, const std::string& text) const {
    if (is_one_of(tag, "!", "tag:yaml.org,2002:str")) return Json(text);
    const bool plain = is_one_of(tag, "", "?");
    if (plain || tag == "tag:yaml.org,2002:null") {
      if (is_one_of(text, "", "~", "null", "Null", "NULL")) return Json();
    }
    if (plain || tag == "tag:yaml.org,2002:bool") {
      if (is_one_of(text, "true", "True", "TRUE")) return Json(true);
      if (is_one_of(text, "false", "False", "FALSE")) return Json(false);
    }
    const bool integer = is_based_int(text) || is_decimal_int(text);
    if (integer && (plain || tag == "tag:yaml.org,2002:int")) {
      if (auto value = integer_of(text)) return *value;
      throw error_at(mark, shown(std::string_view(text)) + " does not fit 64 bits");
    }
    if (plain || tag == "tag:yaml.org,2002:float") {
      if (is_not_finite(text)) throw error_at(mark, text + ": a finite number is accepted");
      if (is_float(text)) {
        if (auto value = float_of(text)) return *value;
        throw error_at(mark, shown(std::string_view(text)) + " is out of a double's range");
      }
    }
    if (plain) return Json(text);
    throw unknown_tag(mark, tag, shown(std::string_view(text)));
  }

  void charge(size_t bytes, const YAML::Mark& mark) {
    used_bytes_ += bytes;
    if (used_bytes_ > kMaxBytes) throw error_at(mark, "aliases make the document larger than 64 MiB");
  }

  Error unknown_tag(const YAML::Mark& mark, std::string tag, const std::string& text = {}) const {
    constexpr std::string_view kCore = "tag:yaml.org,2002:";
    if (tag.starts_with(kCore)) tag = "!!" + tag.substr(kCore.size());
    return error_at(mark, "tag " + shown(std::string_view(tag)) +
                              (text.empty() ? std::string() : " does not go with " + text) +
                              "; !!str, !!int, !!float, !!bool, !!null, !!seq and !!map are known");
  }

  Error error_at(const YAML::Mark& mark, const std::string& reason) const {
    return invalid("{}:{}:{}: {}", what_, mark.line + 1, mark.column + 1, reason);
  }

  const std::string& what_;
  Json root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Anchored> anchors_;
  size_t used_bytes_ = 0;
};

// yaml-cpp guesses an encoding and mends what is not UTF-8, so that is checked before it sees the text.
void check_characters(const std::string& text, const std::string& what) {
  size_t line = 1, line_start = 0;
  const auto refuse = [&](size_t at, const char* reason) {
    return invalid("{}:{}:{}: {}", what, line, at - line_start + 1, reason);
  };
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < 0x80) {
      if (byte == 0x7f || (byte < ' ' && byte != '\n' && byte != '\r' && byte != '\t')) {
        throw refuse(i, "a control character; YAML has none");
      }
      ++i;
      if (byte == '\n') ++line, line_start = i;
      continue;
    }
    const size_t length = byte >= 0xf0 && byte <= 0xf4   ? 4
                          : byte >= 0xe0 && byte <= 0xef ? 3
                          : byte >= 0xc2 && byte <= 0xdf ? 2
                                                         : 0;
    if (length == 0 || i + length > text.size()) throw refuse(i, "text that is not UTF-8");
    uint32_t code = byte & (0xff >> (length + 1));
    for (size_t j = 1; j < length; ++j) {
      const auto next = static_cast<unsigned char>(text[i + j]);
      if ((next & 0xc0) != 0x80) throw refuse(i, "text that is not UTF-8");
      code = code << 6 | (next & 0x3f);
    }
    constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < kSmallest[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
      throw refuse(i, "text that is not UTF-8");
    }
    i += length;
  }
}

std::string printable(std::string text) {
  if (text.size() > 120) text.resize(120);
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text;
}

}  // namespace

Json parse_yaml(const std::string& text, const std::string& what) {
  if (text.size() > kMaxBytes)
    throw invalid("{}: {} bytes; at most 64 MiB of YAML are read", what, text.size());
  check_characters(text, what);
  Builder builder(what);
  try {
    std::istringstream in(text);
    YAML::Parser parser(in);
    if (!parser.HandleNextDocument(builder)) return Json();
    Json document = builder.take();
    Builder second(what);
    if (parser.HandleNextDocument(second))
      throw invalid("{}: holds several documents; one is accepted", what);
    return document;
  } catch (const YAML::Exception& error) {
    throw invalid("{}:{}:{}: {}", what, error.mark.line + 1, error.mark.column + 1, printable(error.msg));
  }
}

Json read_yaml_file(const std::string& path) {
  return parse_yaml(read_file(path), path);
}

}  // namespace coppice
