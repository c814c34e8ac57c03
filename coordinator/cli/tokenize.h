#pragma once
// `coppice tokenize PATH FILE`: one JSON array of token ids on stdout for each line of FILE. A line is what
// lies between newlines; a carriage return belongs to it. Thread: main. Errors: those of the tokenizer;
// kNotFound for the file; kFailed when stdout takes no more.

#include <string>

namespace coppice {

// path: a backbone's folder or a tokenizer.json. Returns the exit status.
int run_tokenize(const std::string& path, const std::string& file, bool special_tokens);

}  // namespace coppice
