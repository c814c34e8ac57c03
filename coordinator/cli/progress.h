#pragma once
// What a user sees of a run: a live table on a terminal, plain lines elsewhere, or nothing. Everything goes
// to stderr, so that stdout stays a program's. Thread: main.

#include <memory>
#include <string>

#include "coordinator/engine.h"

namespace coppice {

class Progress {
 public:
  virtual ~Progress() = default;
  virtual void event(const JobEvent&) {}
  virtual void note(const std::string& /*line*/) {}      // more about an event
  virtual void refresh(const Engine&, bool /*last*/) {}  // called often; draws when it is time to

  // kind: auto, table, lines, none. Throws kInvalid for another.
  static std::unique_ptr<Progress> make(const std::string& kind);
};

}  // namespace coppice
