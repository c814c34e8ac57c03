#include "common/text/decoder.h"

#include <charconv>
#include <optional>

#include "common/text/byte_level.h"
#include "common/text/component.h"
#include "common/text/pattern.h"
#include "common/text/unicode.h"

namespace coppice {
namespace {

constexpr std::string_view kTypes = "ByteLevel, ByteFallback, Metaspace, Replace, Strip, Fuse, Sequence";

class ByteLevelDecoder : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) {
      const size_t before = bytes.size();
      for (size_t at = 0; at < token.size();) {
        const auto byte = alphabet_.byte_of(next_char(token, at));
        if (!byte) {  // not of the alphabet: the whole token stands for itself
          bytes.resize(before);
          bytes += token;
          break;
        }
        bytes += *byte;
      }
    }
    tokens = {valid_utf8(bytes)};
  }

 private:
  ByteAlphabet alphabet_;
};

// Rows of <0xHH> tokens become the text that their bytes spell, or one U+FFFD a byte.
class ByteFallback : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> result;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (valid_utf8(bytes) == bytes) {
        result.push_back(bytes);
      } else {
        result.insert(result.end(), bytes.size(), "\xef\xbf\xbd");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const auto byte = byte_of(token)) {
        bytes += *byte;
      } else {
        flush();
        result.push_back(std::move(token));
      }
    }
    flush();
    tokens = std::move(result);
  }

 private:
  static std::optional<char> byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    unsigned value = 0;
    const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
    if (error != std::errc() || end != token.data() + 5) return std::nullopt;
    return static_cast<char>(value);
  }
};

class Metaspace : public Decoder {
 public:
  Metaspace(char32_t replacement, bool prepended) : replacement_(replacement), prepended_(prepended) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::string text;
      for (size_t at = 0; at < tokens[i].size();) {
        const char32_t c = next_char(tokens[i], at);
        if (c != replacement_) {
          append_char(text, c);
        } else if (i > 0 || !prepended_) {
          text += ' ';
        }
      }
      tokens[i] = std::move(text);
    }
  }

 private:
  char32_t replacement_;
  bool prepended_;
};

class Replace : public Decoder {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::vector<std::string>& tokens) const override {
    std::vector<Pattern::Part> parts;
    for (std::string& token : tokens) {
      pattern_.cut(token, parts);
      std::string text;
      for (const auto& part : parts) {
        text += part.match ? content_ : token.substr(part.begin, part.end - part.begin);
      }
      token = std::move(text);
    }
  }

 private:
  Pattern pattern_;
  std::string content_;
};

// Takes up to `start` and `stop` copies of a character off the ends of every token.
class Strip : public Decoder {
 public:
  Strip(std::string content, int64_t start, int64_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::string_view text = token;
      for (int64_t i = 0; i < start_ && text.starts_with(content_); ++i) text.remove_prefix(content_.size());
      for (int64_t i = 0; i < stop_ && text.ends_with(content_); ++i) text.remove_suffix(content_.size());
      token = std::string(text);
    }
  }

 private:
  std::string content_;
  int64_t start_, stop_;
};

class Fuse : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string text;
    for (const std::string& token : tokens) text += token;
    tokens = {text};
  }
};

class Sequence : public Decoder {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Decoder>> steps) : steps_(std::move(steps)) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (const auto& step : steps_) step->apply(tokens);
  }

 private:
  std::vector<std::unique_ptr<Decoder>> steps_;
};

std::string one_char(Keys& keys, std::string_view key) {
  const std::string text = required_text(keys, key);
  if (text.empty() || char_bytes(text[0]) != text.size()) {
    throw invalid("{} is {}; one character is accepted", keys.path(key), shown(std::string_view(text)));
  }
  return text;
}

std::unique_ptr<Decoder> read_metaspace(Keys& keys) {
  const std::string replacement = one_char(keys, "replacement");
  const bool never = keys.choice("prepend_scheme", "always", {"always", "first", "never"}) == "never";
  if (!keys.boolean("add_prefix_space", true) && !never) {
    throw invalid("{} is false, but prepend_scheme is not never", keys.path("add_prefix_space"));
  }
  keys.boolean("split", true);  // of the pre-tokenizer with the same keys
  keys.informative("str_rep");
  size_t at = 0;
  return std::make_unique<Metaspace>(next_char(replacement, at), !never);
}

}  // namespace

std::unique_ptr<Decoder> Decoder::from_json(const Json& json, const std::string& where) {
  if (json.is_null()) return nullptr;
  Keys keys(json, where);
  const std::string type = required_text(keys, "type");
  std::unique_ptr<Decoder> made;
  if (type == "ByteLevel") {
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) keys.boolean(key, true);
    made = std::make_unique<ByteLevelDecoder>();
  } else if (type == "ByteFallback") {
    made = std::make_unique<ByteFallback>();
  } else if (type == "Metaspace") {
    made = read_metaspace(keys);
  } else if (type == "Replace") {
    auto pattern = Pattern::from_json(required(keys, "pattern"), keys.path("pattern"));
    made = std::make_unique<Replace>(std::move(pattern), required_text(keys, "content"));
  } else if (type == "Strip") {
    const std::string content = one_char(keys, "content");
    const int64_t start = keys.integer("start", 0, {.minimum = 0});
    made = std::make_unique<Strip>(content, start, keys.integer("stop", 0, {.minimum = 0}));
  } else if (type == "Fuse") {
    made = std::make_unique<Fuse>();
  } else if (type == "Sequence") {
    std::vector<std::unique_ptr<Decoder>> steps;
    read_components(keys, "decoders", [&](const Json& item, const std::string& place) {
      if (auto step = from_json(item, place)) steps.push_back(std::move(step));
    });
    made = std::make_unique<Sequence>(std::move(steps));
  } else {
    throw refused_type(keys, type, kTypes);
  }
  keys.finish();
  return made;
}

}  // namespace coppice
