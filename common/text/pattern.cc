#include "common/text/pattern.h"

#include <unicode/regex.h>
#include <unicode/unistr.h>

#include "common/base/error.h"
#include "common/text/regex_syntax.h"
#include "common/text/unicode.h"

namespace coppice {
namespace {

constexpr int32_t kMaxStackBytes = 256 << 20;  // of backtracking, a text

// Offsets of UTF-16 units as offsets of bytes, asked for in ascending order.
class ByteOffsets {
 public:
  ByteOffsets(const icu::UnicodeString& text, bool ascii) : text_(text), ascii_(ascii) {}
  size_t operator()(int32_t unit) {
    if (ascii_) return size_t(unit);
    for (; unit_ < unit; ++unit_) {
      const char16_t c = text_[unit_];
      // Each half of a surrogate pair counts for two of the character's four bytes.
      bytes_ += c < 0x80 ? 1 : c < 0x800 || (c >= 0xd800 && c < 0xe000) ? 2 : 3;
    }
    return bytes_;
  }

 private:
  const icu::UnicodeString& text_;
  const bool ascii_;
  int32_t unit_ = 0;
  size_t bytes_ = 0;
};

}  // namespace

struct Pattern::Regex {
  std::string where;
  std::unique_ptr<icu::RegexPattern> compiled;

  void check(UErrorCode status) const {
    if (U_SUCCESS(status)) return;
    throw Error(ErrorCode::kExhausted,
                fmt::format("{}: the expression failed on a text: {}", where, u_errorName(status)));
  }
};

Pattern::Pattern() = default;
Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

Pattern Pattern::from_json(const Json& json, const std::string& where) {
  if (json.is_object() && json.size() == 1) {
    const std::string& kind = json.begin().key();
    const Json& value = json.front();
    if (kind == "Regex" && value.is_string())
      return from_regex(value.get_ref<const std::string&>(), where + ".Regex");
    if (kind == "String" && value.is_string()) {
      Pattern pattern;
      pattern.fixed_ = value.get<std::string>();
      if (pattern.fixed_.empty())
        throw unsupported("{}.String is empty; a text to look for is accepted", where);
      return pattern;
    }
  }
  throw invalid("{} is {}; {{\"String\": text}} or {{\"Regex\": expression}} is accepted", where,
                shown(json));
}

Pattern Pattern::from_regex(std::string_view expression, const std::string& where) {
  Pattern pattern;
  pattern.regex_ = std::make_unique<Regex>();
  pattern.regex_->where = where;
  UErrorCode status = U_ZERO_ERROR;
  UParseError at{};
  const auto source = icu::UnicodeString::fromUTF8(to_icu_syntax(expression, where));
  pattern.regex_->compiled.reset(icu::RegexPattern::compile(source, 0, at, status));
  if (U_FAILURE(status)) {
    throw invalid("{} is {}; the expression is refused: {}", where, shown(expression), u_errorName(status));
  }
  return pattern;
}

void Pattern::cut(std::string_view text, std::vector<Part>& parts) const {
  parts.clear();
  size_t done = 0;
  const auto add = [&](size_t begin, size_t end) {
    if (done < begin) parts.push_back({done, begin, false});
    parts.push_back({begin, end, true});
    done = end;
  };
  if (!regex_) {
    for (size_t at; (at = text.find(fixed_, done)) != std::string_view::npos;) add(at, at + fixed_.size());
  } else if (!text.empty()) {
    UErrorCode status = U_ZERO_ERROR;
    const auto wide = icu::UnicodeString::fromUTF8({text.data(), int32_t(text.size())});
    const std::unique_ptr<icu::RegexMatcher> matcher(regex_->compiled->matcher(wide, status));
    regex_->check(status);
    matcher->setStackLimit(kMaxStackBytes, status);
    ByteOffsets bytes(wide, wide.length() == int32_t(text.size()));
    bool any = false;
    while (matcher->find(status)) {
      const size_t begin = bytes(matcher->start(status));
      const size_t end = bytes(matcher->end(status));
      if (any && begin == end && begin == done)
        continue;  // an empty match just behind a match does not count
      add(begin, end);
      any = true;
    }
    regex_->check(status);
  }
  if (done < text.size()) parts.push_back({done, text.size(), false});
}

}  // namespace coppice
