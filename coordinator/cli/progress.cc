#include "coordinator/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "common/base/error.h"

namespace coppice {
namespace {

std::string duration(double seconds) {
  const auto whole = int64_t(seconds + 0.5);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string evaluation(const JobRun& run) {
  return run.head.evaluated < 0 ? "-" : fmt::format("{:.4f}", run.head.eval_loss);
}

// The ends of a long name: a sweep's jobs differ at either.
std::string shortened(const std::string& name, size_t width) {
  if (name.size() <= width) return name;
  const size_t tail = (width - 2) / 2;
  return name.substr(0, width - 2 - tail) + ".." + name.substr(name.size() - tail);
}

// A line of the table: the job's name, then as many of the columns as fit whole.
std::string table_line(const std::string& name, size_t names, const std::array<std::string, 6>& cells,
                       size_t width) {
  constexpr std::array<size_t, 6> kWidths = {9, 13, 9, 9, 9, 7};
  std::string line = fmt::format("{:<{}}", shortened(name, names), names);
  for (size_t i = 0; i < cells.size() && line.size() + 1 + kWidths[i] <= width; ++i)
    line +=
        i == 0 ? fmt::format(" {:<{}}", cells[i], kWidths[i]) : fmt::format(" {:>{}}", cells[i], kWidths[i]);
  return line;
}

class Table : public Progress {
 public:
  void refresh(const Engine& engine, bool last) override {
    const auto now = std::chrono::steady_clock::now();
    if (!last && now - drawn_ < std::chrono::milliseconds(200)) return;
    drawn_ = now;
    winsize window{};
    const bool sized = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_row > 0;
    const size_t height = sized ? window.ws_row : 25,
                 columns = sized && window.ws_col > 0 ? window.ws_col : 100;
    const size_t width = last ? std::string::npos : columns;  // the last table stays, whole
    const std::vector<const JobRun*> runs = ordered(engine);
    const size_t names = name_columns(runs, width);
    std::vector<std::string> lines{
        table_line("job", names, {"state", "step", "loss", "eval", "tokens/s", "left"}, width)};
    size_t hidden = 0;
    double rate = 0;
    for (const JobRun* run : runs) {
      const double own = run->pace.tokens_per_second(engine.seconds(), run->head);
      if (!run->ended()) rate += own;
      if (!last && lines.size() + 3 > height) {
        ++hidden;
        continue;
      }
      lines.push_back(row(engine, *run, own, names, width));
    }
    if (hidden > 0) lines.push_back(fmt::format("... and {} more", hidden));
    lines.push_back(fmt::format("{} elapsed, {:.0f} tokens/s", duration(engine.seconds()), rate));
    std::string out = drawn_lines_ > 0 ? fmt::format("\x1b[{}A", drawn_lines_) : "";
    for (const std::string& line : lines) out += "\r\x1b[2K" + line.substr(0, width) + "\n";
    out += "\x1b[J";
    std::fputs(out.c_str(), stderr);
    drawn_lines_ = lines.size();
  }

 private:
  // Running jobs first, then by order of submission.
  static std::vector<const JobRun*> ordered(const Engine& engine) {
    std::vector<const JobRun*> runs;
    for (const auto& [name, run] : engine.jobs()) runs.push_back(run.get());
    std::sort(runs.begin(), runs.end(), [](const JobRun* a, const JobRun* b) {
      return std::pair(a->ended(), a->record.ordinal) < std::pair(b->ended(), b->record.ordinal);
    });
    return runs;
  }

  // Names are whole where state, step and loss still find room beside them.
  static size_t name_columns(const std::vector<const JobRun*>& runs, size_t width) {
    constexpr size_t kLeast = 28, kBeside = 40;
    size_t longest = kLeast;
    for (const JobRun* run : runs) longest = std::max(longest, run->name().size());
    return std::min(longest, std::max(kLeast, width - std::min(width, kBeside)));
  }

  std::string row(const Engine& engine, const JobRun& run, double rate, size_t names, size_t width) const {
    std::string line = table_line(
        run.name(), names,
        {std::string(job_state_name(run.record.state)),
         fmt::format("{}/{}", run.head.version, run.record.total_steps), fmt::format("{:.4f}", run.head.loss),
         evaluation(run), fmt::format("{:.0f}", rate), left(engine, run)},
        width);
    if (!run.record.reason.empty()) line += "  " + run.record.reason;
    return line;
  }

  std::string left(const Engine& engine, const JobRun& run) const {
    const auto seconds = run.pace.seconds_left(engine.seconds(), run.head, run.record.total_steps);
    if (run.ended()) return "-";
    return seconds ? duration(*seconds) : "-";
  }

  std::chrono::steady_clock::time_point drawn_{};
  size_t drawn_lines_ = 0;
};

// As the job's logging_steps says, a share of all steps rounded up as transformers does. Nobody chose its
// default, with which most jobs would have a line or two: those have twenty.
int64_t steps_of_a_line(const JobRun& run) {
  const double every = run.train().logging_steps, total = double(run.record.total_steps);
  if (every == TrainArguments().logging_steps)
    return std::max<int64_t>(1, int64_t(std::min(every, total / 20)));
  return int64_t(std::ceil(every < 1 ? every * total : every));
}

class Lines : public Progress {
 public:
  void note(const std::string& line) override { std::fprintf(stderr, "%s\n", line.c_str()); }

  void event(const JobEvent& event) override {
    const JobRun& run = *event.run;
    switch (event.kind) {
      case JobEvent::Kind::kState:
        std::fprintf(stderr, "%s: %s at step %lld/%lld%s%s\n", run.name().c_str(),
                     std::string(job_state_name(run.record.state)).c_str(),
                     static_cast<long long>(run.head.version), static_cast<long long>(run.record.total_steps),
                     run.record.reason.empty() ? "" : ": ", run.record.reason.c_str());
        return;
      case JobEvent::Kind::kEvaluation:
        std::fprintf(stderr, "%s: step %lld eval_loss %.4f\n", run.name().c_str(),
                     static_cast<long long>(run.head.version), run.head.eval_loss);
        return;
      case JobEvent::Kind::kStep: {
        if (run.head.version % steps_of_a_line(run) != 0 && run.head.version != run.record.total_steps)
          return;
        std::fprintf(stderr, "%s: step %lld/%lld loss %.4f tokens %lld time %.1f s\n", run.name().c_str(),
                     static_cast<long long>(run.head.version), static_cast<long long>(run.record.total_steps),
                     run.head.loss, static_cast<long long>(run.head.tokens), run.head.seconds);
      }
    }
  }
};

}  // namespace

std::unique_ptr<Progress> Progress::make(const std::string& kind) {
  const char* terminal = std::getenv("TERM");
  const bool live = isatty(STDERR_FILENO) && terminal != nullptr && std::string_view(terminal) != "dumb";
  if (kind == "table" || (kind == "auto" && live)) return std::make_unique<Table>();
  if (kind == "lines" || kind == "auto") return std::make_unique<Lines>();
  if (kind == "none") return std::make_unique<Progress>();
  throw invalid("--progress is {}; auto, table, lines and none are accepted", kind);
}

}  // namespace coppice
