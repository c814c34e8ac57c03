#pragma once
// `coppice score --backbone PATH [--adapter PATH] --data FILE --output FILE`: how likely the backbone finds
// each line of data. Lines are rows as a job's data.train takes them, and the same tokens are targets. For
// each line, in order, the output holds one JSON object {"tokens": ids of the whole sequence, "logprobs":
// natural log of the probability of each predicted token}. Every token but the first is predicted unless the
// row says otherwise (a prompt before a completion, labels of -100; a prompt-tuning adapter predicts the
// first one too): then "positions" lists those that are, numbered from 0.
//
// Thread: main. Errors: kInvalid and the like before the weights are loaded; kFailed where a probability is
// not a number. The output is whole or not there, also after a signal, by which the process then ends.

#include <cstdint>
#include <string>

#include "coordinator/cli/inference.h"
#include "coordinator/jobs/job.h"

namespace coppice {

struct ScoreOptions : InferenceOptions {
  std::string data;
  std::string output;
  LossOn loss_on = LossOn::kCompletion;  // which tokens of a prompt and its completion are predicted
  int64_t max_length = 0;                // of a line, in tokens; 0: any
  int64_t pack_rows = 2048;              // of one pass through the backbone; a longer line goes alone
};

// Prints perplexity and tokens; returns the exit status.
int run_score(const ScoreOptions& options);

}  // namespace coppice
