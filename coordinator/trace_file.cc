#include "coordinator/trace_file.h"

#include <cmath>
#include <filesystem>
#include <fstream>

#include "common/base/error.h"
#include "common/io/json.h"

namespace coppice {
namespace {

constexpr int kStepsTrack = 0;
constexpr int kCommitsTrack = 1;

std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string metadata(const char* what, int rank, int track, const std::string& arguments) {
  return fmt::format(R"({{"name":"{}","ph":"M","pid":{},"tid":{},"args":{{{}}}}})", what, rank, track,
                     arguments);
}

std::string arguments_of(const TraceSpan& span) {
  std::string arguments;
  if (span.pack != 0) arguments += fmt::format(R"("pack":{})", span.pack);
  if (!span.job.empty()) arguments += (arguments.empty() ? R"("job":)" : R"(,"job":)") + quoted(span.job);
  return arguments;
}

}  // namespace

namespace {

// What is written over may be a trace of before, and nothing else.
const std::string& checked(const std::string& path) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(path, none)) return path;
  const int first = std::ifstream(path).get();
  if (first != std::ifstream::traits_type::eof() && first != '[')
    throw invalid("--trace {}: holds something that is no trace; a new file or a trace is accepted", path);
  return path;
}

}  // namespace

TraceFile::TraceFile(const std::string& path) : lines_(checked(path)) {
  lines_.write("[");
}

TraceFile::~TraceFile() {
  try {
    close();
  } catch (const Error&) {
    // Whoever needs to know has called close().
  }
}

void TraceFile::write(const std::string& event) {
  lines_.write(first_ ? event : "," + event);
  first_ = false;
}

void TraceFile::name_rank(int rank, const std::string& role) {
  write(metadata("process_name", rank, kStepsTrack,
                 R"("name":)" + quoted(fmt::format("rank {}: {}", rank, role))));
  write(metadata("process_sort_index", rank, kStepsTrack, fmt::format(R"("sort_index":{})", rank)));
  write(metadata("thread_name", rank, kStepsTrack, R"("name":"steps")"));
  lines_.flush();
}

void TraceFile::add(int rank, const std::vector<TraceSpan>& spans) {
  for (const TraceSpan& span : spans) {
    if (!std::isfinite(span.begin) || !std::isfinite(span.seconds) || span.seconds < 0) {
      throw invalid(
          "rank {}: a trace span '{}' begins at {} s and takes {} s; finite times that do not run backwards "
          "are accepted",
          rank, shown(std::string_view(span.name)), span.begin, span.seconds);
    }
    const int track = span.name == "commit" ? kCommitsTrack : kStepsTrack;
    if (track == kCommitsTrack && with_commits_.insert(rank).second) {
      write(metadata("thread_name", rank, track, R"("name":"commits")"));
    }
    write(fmt::format(R"({{"name":{},"ph":"X","ts":{:.3f},"dur":{:.3f},"pid":{},"tid":{},"args":{{{}}}}})",
                      quoted(span.name), span.begin * 1e6, span.seconds * 1e6, rank, track,
                      arguments_of(span)));
  }
  lines_.flush();
}

void TraceFile::close() {
  if (closed_) return;
  closed_ = true;
  lines_.write("]");
  lines_.flush();
}

}  // namespace coppice
