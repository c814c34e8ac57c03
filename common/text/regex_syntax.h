#pragma once
// The regular expressions of tokenizer.json are written for Oniguruma (Ruby's syntax), and ICU, which runs
// them here, reads some of them differently: \s, \w, the dot, {n,m}+, [ inside a class, and the Unicode
// version of \p{..}. So an expression is read and written anew in terms that mean one thing only. What has no
// sure counterpart is refused by name. Thread: any. Errors: kUnsupported, kInvalid, naming where, the
// construct and its offset.

#include <string>
#include <string_view>

namespace coppice {

std::string to_icu_syntax(std::string_view expression, const std::string& where);

}  // namespace coppice
