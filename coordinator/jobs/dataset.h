#pragma once
// The data of jobs: JSONL rows tokenized once. Rows are {"text"}, {"prompt","completion"},
// {"instruction","input","output"} (Alpaca template unless data.template) or {"input_ids","labels"?}. Prompt
// and completion are tokenized jointly, BOS as the tokenizer adds it, EOS closes a completion and a text.
// Labels follow HF: labels[i] is what should stand at i (the shift is done in the loss), -100 is ignored.
// Thread: any. Errors: kInvalid with file and line, before training starts.

#include <cstdint>
#include <string>
#include <vector>

#include "common/text/tokenizer.h"
#include "coordinator/jobs/job.h"

namespace coppice {

constexpr int32_t kIgnored = -100;

struct Example {
  std::vector<int32_t> tokens;
  std::vector<int32_t> labels;  // as many as tokens
  int64_t bytes() const;        // of memory
  int64_t targets(
      bool virtual_rows) const;  // labels that count: not kIgnored, and the first only after virtual rows
  bool operator==(const Example&) const = default;
};

struct Dataset {
  std::vector<Example> examples;
  int64_t tokens = 0;
  int64_t truncated = 0, dropped = 0;  // by on_long
  uint64_t fingerprint = 0;            // of all tokens and labels
  int64_t identity = 0;                // of this copy among those that jobs share; 0: none of them

  void count();                      // tokens and fingerprint, from the examples
  int64_t bytes() const;             // of memory
  Dataset without_examples() const;  // the figures alone, which are nobody's copy
};

// tokenizer: may be null where the rows are input_ids (needed otherwise: kInvalid). vocabulary: ids are
// checked against it. most_bytes: of memory that the examples may take (kExhausted).
Dataset read_dataset(const std::string& path, const DataArguments& data, const Tokenizer* tokenizer,
                     int64_t vocabulary, bool virtual_rows, int64_t most_bytes = INT64_MAX);

}  // namespace coppice
