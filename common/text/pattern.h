#pragma once
// What a Split or a Replace looks for: a fixed text or a regular expression, as tokenizer.json writes them
// ({"String": ..} or
// {"Regex": ..}). Thread: const methods from any thread. Owner of ICU's regular expressions. Errors:
// kInvalid, kUnsupported, naming where; kExhausted when an expression needs more than its memory on a text.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/io/json.h"

namespace coppice {

class Pattern {
 public:
  struct Part {
    size_t begin, end;
    bool match;
  };

  static Pattern from_json(const Json& json, const std::string& where);
  static Pattern from_regex(std::string_view expression, const std::string& where);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  // Cuts text (valid UTF-8) into matches and what lies between them. The parts cover text in order; a match
  // may be empty.
  void cut(std::string_view text, std::vector<Part>& parts) const;

 private:
  struct Regex;
  Pattern();
  std::string fixed_;
  std::unique_ptr<Regex> regex_;  // null: fixed_ is meant
};

}  // namespace coppice
