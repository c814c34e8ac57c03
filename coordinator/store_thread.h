#pragma once
// The store thread: the only caller of a run folder's store. Commits are handed over, made durable beside the
// steps, and their end is polled. Thread: all methods from the main thread. Errors: what a commit threw comes
// out of poll() or drain(), once; after it nothing more is written.

#include <string>
#include <vector>

#include "coordinator/params/checkpoint.h"
#include "coordinator/params/write_thread.h"

namespace coppice {

class StoreThread {
 public:
  explicit StoreThread(KvStore& store) : writer_(store) {}  // store outlives this; ends what was handed over

  void submit(Commit commit);
  bool idle() const { return thread_.idle(); }  // nothing is waiting or being written
  struct Durable {
    std::string job;
    int64_t version = 0;
    double seconds = 0;  // that the commit took
  };
  std::vector<Durable> poll();       // commits that have become durable since the last call, in order
  void drain() { thread_.drain(); }  // waits until idle

 private:
  CheckpointWriter writer_;
  std::vector<Durable> durable_;
  WriteThread thread_;  // last: ends before what it writes with
};

}  // namespace coppice
