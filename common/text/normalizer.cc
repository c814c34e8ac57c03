#include "common/text/normalizer.h"

#include <algorithm>
#include <vector>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include "common/text/component.h"
#include "common/text/pattern.h"
#include "common/text/unicode.h"

namespace coppice {
namespace {

constexpr std::string_view kTypes = "NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip, Sequence";

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(const std::string& type) {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* form = type == "NFC"    ? icu::Normalizer2::getNFCInstance(status)
                                   : type == "NFD"  ? icu::Normalizer2::getNFDInstance(status)
                                   : type == "NFKC" ? icu::Normalizer2::getNFKCInstance(status)
                                                    : icu::Normalizer2::getNFKDInstance(status);
    // The tables of the `tokenizers` package are those of Unicode 9: what came later takes no part.
    known_.applyPattern(u"[:age=9.0:]", status);
    known_.freeze();
    if (U_FAILURE(status)) throw failed("normalisation form {}: {}", type, u_errorName(status));
    form_ = std::make_unique<icu::FilteredNormalizer2>(*form, known_);
  }

  void apply(std::string& text, size_t& first) const override {
    if (is_ascii(text)) return;
    const std::string head = first > 0 ? converted(std::string_view(text).substr(0, first)) : std::string();
    text = converted(text);
    if (first > 0) first = text.starts_with(head) ? head.size() : char_bytes(text[0]);
  }

 private:
  std::string converted(std::string_view text) const {
    std::string result;
    icu::StringByteSink<std::string> sink(&result);
    UErrorCode status = U_ZERO_ERROR;
    form_->normalizeUTF8(0, {text.data(), int32_t(text.size())}, sink, nullptr, status);
    if (U_FAILURE(status)) throw failed("normalisation: {}", u_errorName(status));
    return result;
  }

  icu::UnicodeSet known_;
  std::unique_ptr<icu::FilteredNormalizer2> form_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(std::string& text, size_t& first) const override {
    if (text.empty()) return;
    text.insert(0, prefix_);
    if (first > 0) first += prefix_.size();
  }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text, size_t& first) const override {
    std::vector<Pattern::Part> parts;
    pattern_.cut(text, parts);
    std::string result;
    result.reserve(text.size());
    size_t result_first = 0;
    for (const auto& part : parts) {
      result.append(part.match ? std::string_view(content_)
                               : std::string_view(text).substr(part.begin, part.end - part.begin));
      if (part.end <= first) result_first = result.size();
      if (!part.match && part.begin < first && first < part.end)
        result_first = result.size() - (part.end - first);
    }
    text = std::move(result);
    first = result_first;
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(std::string& text, size_t& first) const override {
    size_t begin = 0, end = text.size();
    if (left_) {
      for (size_t at = 0; at < end && is_white_space(next_char(text, at));) begin = at;
    }
    while (right_ && end > begin) {
      size_t last = end - 1;
      while ((static_cast<unsigned char>(text[last]) & 0xc0) == 0x80) --last;
      size_t at = last;
      if (!is_white_space(next_char(text, at))) break;
      end = last;
    }
    text = text.substr(begin, end - begin);
    first = std::min(first - std::min(first, begin), text.size());
  }

 private:
  bool left_, right_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}
  void apply(std::string& text, size_t& first) const override {
    for (const auto& step : steps_) step->apply(text, first);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

}  // namespace

std::unique_ptr<Normalizer> Normalizer::from_json(const Json& json, const std::string& where) {
  if (json.is_null()) return nullptr;
  Keys keys(json, where);
  const std::string type = required_text(keys, "type");
  std::unique_ptr<Normalizer> made;
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    made = std::make_unique<UnicodeForm>(type);
  } else if (type == "Prepend") {
    made = std::make_unique<Prepend>(required_text(keys, "prepend"));
  } else if (type == "Replace") {
    auto pattern = Pattern::from_json(required(keys, "pattern"), keys.path("pattern"));
    made = std::make_unique<Replace>(std::move(pattern), required_text(keys, "content"));
  } else if (type == "Strip") {
    const bool left = required_boolean(keys, "strip_left");
    made = std::make_unique<Strip>(left, required_boolean(keys, "strip_right"));
  } else if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    read_components(keys, "normalizers", [&](const Json& item, const std::string& place) {
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
