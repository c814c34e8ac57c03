#pragma once
// One row of a data file as an example. A row has one of four forms, told by its keys, and holds no others:
//   {"text"}                            the text, closed by EOS; every token is a target
//   {"prompt", "completion"}            the completion, closed by EOS, is the target (or all, by loss_on)
//   {"instruction", "input"?, "output"} the same, with a template around instruction and input as the prompt
//   {"input_ids", "labels"?, "attention_mask"?}  as they are; without labels every token is a target; a mask
//   holds ones only
// Prompt and completion are tokenized as one text. Its first tokens, as far as they are those of the prompt
// alone, belong to the prompt: where a token would join the two, that token is the first target, and with it
// what the joining changed before it. With data.template only
// the third form is accepted: on the others it would do nothing. Thread: any; const. Errors: kInvalid, naming
// file and line.

#include <cstdint>
#include <string>

#include "common/io/json.h"
#include "common/text/tokenizer.h"
#include "coordinator/jobs/dataset.h"

namespace coppice {

class RowReader {
 public:
  // What it refers to outlives it. tokenizer: may be null where all rows are input_ids.
  RowReader(const std::string& path, const DataArguments& data, const Tokenizer* tokenizer,
            int64_t vocabulary)
      : path_(path), data_(data), tokenizer_(tokenizer), vocabulary_(vocabulary) {}

  // However long it is, and whether or not it has a target.
  Example read(const Json& row, int64_t line) const;

 private:
  const std::string& text_of(const Json& row, const char* key, int64_t line) const;
  void check_keys(const Json& row, int64_t line, std::initializer_list<const char*> needed,
                  std::initializer_list<const char*> optional) const;
  Example from_ids(const Json& row, int64_t line) const;
  Example from_text(const std::string& text, int64_t line) const;
  Example from_prompt(const std::string& prompt, const std::string& completion, int64_t line) const;
  std::vector<int32_t> ids_of(const Json& row, const char* key, bool ignored, int64_t line) const;
  std::vector<int32_t> encode(const std::string& text, int64_t line) const;
  void close(std::vector<int32_t>& tokens) const;  // with EOS, if there is one and it does not stand there

  const std::string& path_;
  const DataArguments& data_;
  const Tokenizer* tokenizer_;
  int64_t vocabulary_;
};

}  // namespace coppice
