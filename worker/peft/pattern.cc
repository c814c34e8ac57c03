#include "worker/peft/pattern.h"

#include <unicode/regex.h>
#include <unicode/unistr.h>

#include "common/base/error.h"
#include "common/io/json.h"

namespace coppice {
namespace {

// In ICU's steps of the matching engine, some milliseconds each: far above what any module name needs.
constexpr int32_t kTimeLimit = 200;

}  // namespace

struct ModulePattern::Impl {
  std::string expression, where;
  std::unique_ptr<icu::RegexPattern> pattern;

  // The matcher, and the text that it points into.
  struct Match {
    icu::UnicodeString text;
    std::unique_ptr<icu::RegexMatcher> matcher;
  };
  Match match(const std::string& text) const {
    UErrorCode status = U_ZERO_ERROR;
    Match match{icu::UnicodeString::fromUTF8(text), nullptr};
    match.matcher.reset(pattern->matcher(status));
    check(status);
    match.matcher->setTimeLimit(kTimeLimit, status);
    check(status);
    return match;
  }
  void check(UErrorCode status) const {
    if (U_SUCCESS(status)) return;
    const char* reason = status == U_REGEX_TIME_OUT || status == U_REGEX_STACK_OVERFLOW
                             ? "takes too long to match"
                             : u_errorName(status);
    throw invalid("{} is {}: {}; a regular expression is accepted", where,
                  shown(std::string_view(expression)), reason);
  }
};

ModulePattern::ModulePattern(const std::string& expression, const std::string& where)
    : impl_(new Impl{expression, where, nullptr}) {
  UErrorCode status = U_ZERO_ERROR;
  UParseError place;
  impl_->pattern.reset(
      icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(expression), 0, place, status));
  if (U_FAILURE(status)) {
    throw invalid("{} is {}: {} at character {}; a regular expression is accepted", where,
                  shown(std::string_view(expression)), u_errorName(status), place.offset + 1);
  }
}

ModulePattern::~ModulePattern() = default;
ModulePattern::ModulePattern(ModulePattern&&) noexcept = default;
ModulePattern& ModulePattern::operator=(ModulePattern&&) noexcept = default;

bool ModulePattern::matches_whole(const std::string& text) const {
  Impl::Match match = impl_->match(text);
  match.matcher->reset(match.text);
  UErrorCode status = U_ZERO_ERROR;
  const bool found = match.matcher->matches(status);
  impl_->check(status);
  return found;
}

std::optional<std::string> ModulePattern::group_at_start(const std::string& text,
                                                         const std::string& name) const {
  Impl::Match match = impl_->match(text);
  match.matcher->reset(match.text);
  UErrorCode status = U_ZERO_ERROR;
  const bool found = match.matcher->lookingAt(status);
  impl_->check(status);
  if (!found) return std::nullopt;
  const int32_t number = impl_->pattern->groupNumberFromName(icu::UnicodeString::fromUTF8(name), status);
  impl_->check(status);
  const icu::UnicodeString group = match.matcher->group(number, status);
  impl_->check(status);
  std::string bytes;
  return group.toUTF8String(bytes);
}

}  // namespace coppice
