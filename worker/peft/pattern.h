#pragma once
// Regular expressions as job files and adapter_config.json hold them: written for Python's `re`, matched by
// ICU, which agrees with it on what module names need. A pattern that ICU does not take, or that takes it too
// long, is refused. Owner of ICU in this folder. Thread: one a pattern. Errors: kInvalid naming the field,
// the pattern and what is wrong with it.

#include <memory>
#include <optional>
#include <string>

namespace coppice {

class ModulePattern {
 public:
  // where: the field, for errors.
  ModulePattern(const std::string& expression, const std::string& where);
  ~ModulePattern();
  ModulePattern(ModulePattern&&) noexcept;
  ModulePattern& operator=(ModulePattern&&) noexcept;

  bool matches_whole(const std::string& text) const;  // re.fullmatch
  // What the named group holds after a match at the start of text (re.match); nothing where there is no
  // match.
  std::optional<std::string> group_at_start(const std::string& text, const std::string& name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace coppice
