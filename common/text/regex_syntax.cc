#include "common/text/regex_syntax.h"

#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/error.h"
#include "common/io/json.h"
#include "common/text/unicode.h"

namespace coppice {
namespace {

constexpr char32_t kNone = 0xffffffff;
constexpr size_t kMaxDepth = 64;
constexpr int64_t kMaxRepeats = 1000;

bool is_letter_or_digit(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

class Translator {
 public:
  Translator(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  std::string translate() {
    alternatives(false, 0);
    if (at_ < text_.size()) throw bad("a closing parenthesis without its opening");
    return std::move(out_);
  }

 private:
  // One escape: a character, or a set.
  struct Escape {
    char32_t c = kNone;
    std::string set;
  };

  Error refuse(const std::string& construct) const {
    return unsupported("{}: {} at byte {} of {} is not supported", where_, construct, at_, shown(text_));
  }
  Error bad(const std::string& reason) const {
    return invalid("{}: {} at byte {} of {}", where_, reason, at_, shown(text_));
  }
  bool next_is(std::string_view token) const { return text_.substr(at_).starts_with(token); }
  bool take(std::string_view token) {
    if (!next_is(token)) return false;
    at_ += token.size();
    return true;
  }

  void alternatives(bool caseless, size_t depth) {
    if (depth > kMaxDepth) throw refuse("nesting deeper than 64 groups");
    while (at_ < text_.size() && text_[at_] != ')') {
      if (take("|")) {
        out_ += '|';
      } else {
        const bool quantifiable = element(caseless, depth);
        quantifier(quantifiable);
      }
    }
  }

  // Returns whether a quantifier may follow.
  bool element(bool caseless, size_t depth) {
    if (next_is("(")) return group(caseless, depth);
    if (next_is("[")) {
      if (caseless) throw refuse("a character class inside (?i:");
      out_ += character_class(0);
      return true;
    }
    if (next_is("^") || next_is("$")) throw refuse("an anchor of lines");
    if (next_is("*") || next_is("+") || next_is("?") || next_is("{")) {
      throw refuse("a quantifier without something before it");
    }
    if (take(".")) {
      out_ += "[^\\x{a}]";
      return true;
    }
    if (next_is("\\A") || next_is("\\z")) {
      out_ += text_.substr(at_, 2);
      at_ += 2;
      return false;
    }
    if (next_is("\\")) {
      const Escape escape = read_escape();
      if (caseless && (escape.c == kNone || escape.c >= 0x80)) throw refuse("such an escape inside (?i:");
      out_ += escape.c == kNone ? escape.set : escaped_char(escape.c);
      return true;
    }
    const char32_t c = next_char(text_, at_);
    if (caseless && c >= 0x80) throw refuse("a character that is not ASCII inside (?i:");
    out_ += escaped_char(c);
    return true;
  }

  bool group(bool caseless, size_t depth) {
    bool quantifiable = true;
    if (take("(?:")) {
      out_ += "(?:";
    } else if (take("(?i:")) {
      out_ += "(?i:";
      caseless = true;
    } else if (take("(?>")) {
      out_ += "(?>";
    } else {
      for (const std::string_view look : {"(?=", "(?!", "(?<=", "(?<!"}) {
        if (!take(look)) continue;
        out_ += look;
        quantifiable = false;
        break;
      }
      if (quantifiable) {
        if (next_is("(?")) throw refuse("this kind of group");
        at_ += 1;  // a capturing group: nobody asks for what it captures
        out_ += "(?:";
      }
    }
    alternatives(caseless, depth + 1);
    if (!take(")")) throw bad("a group that is not closed");
    out_ += ')';
    return quantifiable;
  }

  void quantifier(bool quantifiable) {
    const size_t begin = at_;
    bool interval = false;
    if (take("*") || take("+") || take("?")) {
      out_ += text_[begin];
    } else if (next_is("{")) {
      interval = true;
      out_ += read_interval();
    } else {
      return;
    }
    if (!quantifiable) throw refuse("a quantifier after an assertion");
    if (next_is("+") || next_is("?")) {
      // Oniguruma reads {n,m}+ as a repetition of the repetition, and {n}? as {0,n}.
      if (interval) throw refuse("a + or ? after an interval");
      out_ += text_[at_++];
    }
    if (next_is("*") || next_is("+") || next_is("?") || next_is("{"))
      throw refuse("a quantifier of a quantifier");
  }

  std::optional<int64_t> read_number() {
    const size_t begin = at_;
    int64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      value = value * 10 + (text_[at_] - '0');
      if (value > kMaxRepeats) throw refuse("a repetition above 1000");
    }
    return at_ == begin ? std::nullopt : std::optional(value);
  }

  std::string read_interval() {
    ++at_;
    const auto low = read_number();
    if (low && take("}")) return fmt::format("{{{}}}", *low);
    if (!take(",")) throw refuse("a brace that begins no interval");
    const auto high = read_number();
    if ((!low && !high) || !take("}")) throw refuse("a brace that begins no interval");
    if (!high) return fmt::format("{{{},}}", *low);
    if (low.value_or(0) > *high) throw refuse("an interval whose end is below its begin");
    return fmt::format("{{{},{}}}", low.value_or(0), *high);
  }

  Escape read_escape() {
    const size_t begin = at_++;
    if (at_ == text_.size()) throw bad("a backslash at the end");
    const char32_t c = next_char(text_, at_);
    switch (c) {
      case 'n':
        return {U'\n', {}};
      case 'r':
        return {U'\r', {}};
      case 't':
        return {U'\t', {}};
      case 'f':
        return {U'\f', {}};
      case 'v':
        return {U'\v', {}};
      case 's':
        return {kNone, "[\\p{White_Space}]"};
      case 'S':
        return {kNone, "[^\\p{White_Space}]"};
      case 'd':
        return {kNone, property_set("Nd")};
      case 'D':
        return {kNone, "[^" + property_set("Nd") + "]"};
      case 'w':
        return {kNone, word_set()};
      case 'W':
        return {kNone, "[^" + word_set() + "]"};
      case 'p':
      case 'P':
        return {kNone, read_property(c == 'P')};
      case 'u':
        return {read_hex(4, 4), {}};
      case 'x':
        return {take("{") ? read_braced_hex() : read_ascii_hex(), {}};
      default:
        break;
    }
    if (is_letter_or_digit(c) || c >= 0x80) {
      const std::string escape(text_.substr(begin, at_ - begin));
      at_ = begin;
      throw refuse("the escape " + escape);
    }
    return {c, {}};
  }

  char32_t read_hex(size_t at_least, size_t at_most) {
    uint32_t value = 0;
    size_t digits = 0;
    for (; digits < at_most && at_ < text_.size(); ++digits, ++at_) {
      const char c = text_[at_];
      if (c >= '0' && c <= '9') {
        value = value * 16 + uint32_t(c - '0');
      } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
        value = value * 16 + uint32_t((c | 0x20) - 'a' + 10);
      } else {
        break;
      }
    }
    if (digits < at_least) throw bad("an escape with too few hexadecimal digits");
    if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) throw bad("an escape that is no character");
    return value;
  }
  char32_t read_braced_hex() {
    const char32_t c = read_hex(1, 8);
    if (!take("}")) throw bad("an escape that is not closed");
    return c;
  }
  char32_t read_ascii_hex() {
    const char32_t c = read_hex(1, 2);
    if (c >= 0x80) throw refuse("\\x of a byte that is not ASCII");
    return c;
  }

  std::string read_property(bool negated) {
    if (!take("{")) throw refuse("\\p without a brace");
    if (take("^")) negated = !negated;
    const size_t end = text_.find('}', at_);
    if (end == std::string_view::npos) throw bad("a property that is not closed");
    const std::string_view name = text_.substr(at_, end - at_);
    const std::string set = property_set(name);
    if (set.empty()) throw refuse("the property " + shown(name));
    at_ = end + 1;
    return negated ? "[^" + set + "]" : set;
  }

  // A class, from its opening bracket. A && B becomes [[A]&&[B]]: there the binding is beyond doubt.
  std::string character_class(size_t depth) {
    if (depth > kMaxDepth) throw refuse("nesting deeper than 64 classes");
    ++at_;
    const bool negated = take("^");
    if (next_is("]")) throw refuse("a ] that begins a class");
    std::vector<std::string> operands(1);
    while (!take("]")) {
      if (at_ == text_.size()) throw bad("a class that is not closed");
      if (take("&&")) {
        operands.emplace_back();
      } else {
        class_item(operands.back(), depth);
      }
    }
    std::string set = negated ? "[^" : "[";
    for (size_t i = 0; i < operands.size(); ++i) {
      if (operands[i].empty()) throw refuse("an empty side of &&");
      set += operands.size() == 1 ? operands[i] : (i > 0 ? "&&[" : "[") + operands[i] + "]";
    }
    return set + "]";
  }

  void class_item(std::string& operand, size_t depth) {
    if (next_is("[:")) throw refuse("a POSIX class");
    if (next_is("[")) {
      operand += character_class(depth + 1);
      return;
    }
    const char32_t first = class_char(operand);
    const bool range = next_is("-") && !next_is("-]");
    if (first == kNone) {
      if (range) throw refuse("a - after a set");
      return;
    }
    operand += escaped_char(first);
    if (!range) return;
    ++at_;
    if (next_is("[") || next_is("&&")) throw refuse("a - before a set");
    std::string set;
    const char32_t last = class_char(set);
    if (last == kNone) throw refuse("a - before a set");
    if (last < first) throw bad("a range whose end is below its begin");
    operand += "-" + escaped_char(last);
  }

  // One character of a class; a set goes to `operand` and gives kNone.
  char32_t class_char(std::string& operand) {
    if (at_ == text_.size()) throw bad("a class that is not closed");
    if (!next_is("\\")) return next_char(text_, at_);
    const Escape escape = read_escape();
    if (escape.c == kNone) operand += escape.set;
    return escape.c;
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string to_icu_syntax(std::string_view expression, const std::string& where) {
  return Translator(expression, where).translate();
}

}  // namespace coppice
