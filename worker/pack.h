#pragma once
// A pack: micro-batches of any jobs that go through the backbone together as one ragged [rows, hidden] matrix
// without padding. A segment is the rows of one micro-batch; its sequences follow each other, a sequence's
// virtual rows (prompt tuning) before its tokens. Segments whose backward reaches deeper come first, so that
// the rows a layer's backward needs are always the first so many: no gather. Plain data: made by the
// coordinator, sent to every stage. Thread: any.

#include <cstdint>
#include <string>
#include <vector>

namespace coppice {

// No backward: evaluation, scoring, generation.
constexpr int64_t kNoBackward = INT64_MAX;

struct PackSequence {
  int64_t row = 0;  // first row in the pack (a virtual row where there are such)
  int64_t virtual_rows = 0;
  int64_t tokens = 0;
  int64_t in_step = 0;  // its number among the sequences of the job's step: keys of dropout
  int64_t first_position =
      0;  // of its first row: prefix tuning shifts it by the prefix, decoding by what is cached

  int64_t rows() const { return virtual_rows + tokens; }
};

struct Segment {
  std::string job;
  int64_t version = 0;      // of the adapter
  int64_t step = 0;         // from 0: the update that this micro-batch takes part in
  int64_t micro_batch = 0;  // its number in the step
  bool training = false;    // dropout on, gradients wanted
  int64_t lowest_layer =
      kNoBackward;            // the backward ends here: -1 embedding, l block l, layers() the head alone
  int64_t row = 0, rows = 0;  // in the pack
  std::vector<PackSequence> sequences;
};

struct Pack {
  uint64_t id = 0;
  bool checkpointing = false;  // keep only each block's input, compute the rest again in the backward
  int64_t rows = 0;
  std::vector<Segment> segments;  // by lowest_layer ascending; segments of one job in micro-batch order

  // The rows whose backward reaches layer: always the first so many.
  int64_t backward_rows(int64_t layer) const;
};

// What the first stage needs: a token id for every row (0 for virtual rows).
using PackTokens = std::vector<int32_t>;

// What the last stage needs: rows that predict something, ascending, what they predict and how much it weighs
// in the loss (1 / number of targets of the step, or 1 where log-probabilities are asked for).
struct PackTargets {
  std::vector<int32_t> rows;
  std::vector<int32_t> targets;
  std::vector<float> weights;
};

}  // namespace coppice
