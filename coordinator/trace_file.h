#pragma once
// The file that --trace names: what every rank did and when, to be opened in Perfetto (ui.perfetto.dev) or
// chrome://tracing. One process a rank, and one line of the file an event, written as spans come in, so that
// no trace stands in memory. The format is the array form of the Trace Event Format, whose closing bracket
// may be missing: the trace of a killed run opens too.
//
// Thread: one. Errors: those of writing files; kInvalid for a span whose times are no times.

#include <set>
#include <string>
#include <vector>

#include "common/base/trace.h"
#include "common/io/files.h"

namespace coppice {

class TraceFile {
 public:
  explicit TraceFile(const std::string& path);  // truncates
  ~TraceFile();                                 // closes, and forgets errors

  void name_rank(int rank, const std::string& role);  // "pipeline 1 stage 0, layers 4-8"
  // Handed to the system on return. Commits run beside the rest, so they have a track of their own.
  void add(int rank, const std::vector<TraceSpan>& spans);
  void close();

 private:
  void write(const std::string& event);

  LineWriter lines_;
  bool first_ = true;
  bool closed_ = false;
  std::set<int> with_commits_;  // ranks whose second track is named
};

}  // namespace coppice
