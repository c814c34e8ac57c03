#include "coordinator/cli/score.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include <unistd.h>

#include <fmt/ranges.h>

#include "common/base/check.h"
#include "common/base/error.h"
#include "common/io/files.h"
#include "coordinator/cli/stop_on_signal.h"
#include "coordinator/jobs/dataset.h"
#include "coordinator/schedule/packer.h"

namespace coppice {
namespace {

// Says on stderr how far it is, every two seconds: over one line on a terminal, on lines of its own
// elsewhere.
class Progress {
 public:
  explicit Progress(size_t lines) : lines_(lines), began_(Clock::now()), told_(began_) {}
  ~Progress() {
    if (drawn_ && terminal_) std::fputs("\r\033[K", stderr);
  }

  void advance(size_t lines, int64_t tokens) {
    done_ += lines;
    tokens_ += tokens;
    const auto now = Clock::now();
    if (now - told_ < std::chrono::seconds(2)) return;
    told_ = now;
    drawn_ = true;
    const double seconds = std::chrono::duration<double>(now - began_).count();
    const std::string text =
        fmt::format("scored {} of {} lines, {:.0f} tokens/s, {:.0f} s left", done_, lines_,
                    double(tokens_) / seconds, seconds * double(lines_ - done_) / double(done_));
    std::fputs(terminal_ ? ("\r\033[K" + text).c_str() : (text + "\n").c_str(), stderr);
    std::fflush(stderr);
  }

 private:
  using Clock = std::chrono::steady_clock;
  size_t lines_, done_ = 0;
  int64_t tokens_ = 0;
  Clock::time_point began_, told_;
  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  bool drawn_ = false;
};

Dataset read_lines(const ScoreOptions& options, const Inference& inference) {
  DataArguments data;
  data.train = options.data;
  data.max_length = options.max_length > 0 ? options.max_length : std::numeric_limits<int64_t>::max();
  data.loss_on = options.loss_on;
  Dataset dataset = read_dataset(options.data, data, inference.tokenizer(), inference.config().vocabulary,
                                 inference.virtual_rows() > 0);
  for (size_t i = 0; i < dataset.examples.size(); ++i) {
    inference.check_length(int64_t(dataset.examples[i].tokens.size()),
                           fmt::format("{}: row {}", options.data, i + 1));
  }
  return dataset;
}

// Sends examples [begin, end) through the backbone together: the log-probability of every target, in order.
std::vector<float> forward(Inference& inference, const Dataset& dataset, size_t begin, size_t end,
                           uint64_t id) {
  auto plan = std::make_shared<StepPlan>();
  MicroBatch batch;
  for (size_t i = begin; i < end; ++i) batch.examples.push_back(&dataset.examples[i]);
  plan->micro_batches.push_back(std::move(batch));
  PackItem item;
  item.job = inference.job();
  item.virtual_rows = inference.virtual_rows();
  item.prefix_rows = inference.prefix_rows();
  item.plan = std::move(plan);

  const PackPlan pack = make_pack(id, false, {std::move(item)}).plan;
  Stage& stage = inference.stage();
  const Rows rows = stage.forward(pack.pack, pack.tokens);
  Rows no_backward;
  auto losses = stage.loss(pack.pack, pack.targets, rows, true, &no_backward);
  stage.finish(pack.pack);
  CHECK(losses.size() == 1 && losses[0].log_probability.size() == pack.targets.rows.size());
  return std::move(losses[0].log_probability);
}

struct Stopped {};  // by a signal

struct Sum {
  double log_probability = 0;
  int64_t targets = 0;
};

// The line of an example. scores: at its first target; left behind its last.
std::string line_of(const Example& example, bool virtual_rows, size_t number, const float*& scores,
                    Sum& sum) {
  std::string logprobs, positions;
  bool all = true;
  for (size_t i = 0; i < example.tokens.size(); ++i) {
    const bool target = example.labels[i] != kIgnored && (i > 0 || virtual_rows);
    if (target != (i > 0)) all = false;
    if (!target) continue;
    const float score = *scores++;
    if (!std::isfinite(score)) {
      throw failed("row {}: the log-probability of token {} is {}", number + 1, i, score);
    }
    logprobs += fmt::format("{}{}", logprobs.empty() ? "" : ",", score);
    positions += fmt::format("{}{}", positions.empty() ? "" : ",", i);
    sum.log_probability += double(score);
    ++sum.targets;
  }
  return fmt::format("{{\"tokens\": [{}], \"logprobs\": [{}]{}}}\n", fmt::join(example.tokens, ","), logprobs,
                     all ? "" : ", \"positions\": [" + positions + "]");
}

int score(const ScoreOptions& options) {
  std::error_code none;
  if (std::filesystem::equivalent(options.data, options.output, none)) {
    throw invalid("--output {}: is the data itself; another file is accepted", options.output);
  }
  Inference inference(options);
  const Dataset dataset = read_lines(options, inference);
  const auto& examples = dataset.examples;
  Sum sum;
  write_file_atomically(options.output, [&](const Append& append) {
    inference.load();
    Progress progress(examples.size());
    uint64_t id = 0;
    for (size_t begin = 0; begin < examples.size();) {
      if (StopOnSignal::asked()) throw Stopped{};
      int64_t rows = 0, tokens = 0;
      size_t end = begin;
      for (; end < examples.size(); ++end) {
        const int64_t length = int64_t(examples[end].tokens.size());
        if (end > begin && rows + length + inference.virtual_rows() > options.pack_rows) break;
        rows += length + inference.virtual_rows();
        tokens += length;
      }
      const std::vector<float> scores = forward(inference, dataset, begin, end, id++);
      const float* next = scores.data();
      for (size_t i = begin; i < end; ++i) {
        append(line_of(examples[i], inference.virtual_rows() > 0, i, next, sum));
      }
      progress.advance(end - begin, tokens);
      begin = end;
    }
  });
  print(fmt::format("perplexity {:.6g} over {} tokens of {} lines\n",
                    std::exp(-sum.log_probability / double(sum.targets)), sum.targets, examples.size()));
  return 0;
}

}  // namespace

int run_score(const ScoreOptions& options) {
  StopOnSignal signals;
  try {
    return score(options);
  } catch (const Stopped&) {
    StopOnSignal::follow();
  }
}

}  // namespace coppice
