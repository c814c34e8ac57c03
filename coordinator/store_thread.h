#pragma once
// The store thread: the only caller of a run folder's store, and the writer of exports. What is handed over
// is made durable beside the steps, and its end is polled. Commits that wait while others are written go
// together and share one sync. Thread: all methods from the main thread. Errors: what a commit threw comes
// out of poll() or drain(), once; after it nothing more is written.

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "coordinator/params/checkpoint.h"
#include "coordinator/params/write_thread.h"

namespace coppice {

class StoreThread {
 public:
  explicit StoreThread(KvStore& store) : writer_(store) {}  // store outlives this; ends what was handed over

  void submit(Commit commit);
  // For what concerns one job. done: called by poll() or drain() with the message of what write threw, empty
  // where it threw nothing.
  void submit(std::function<void()> write, std::function<void(const std::string& error)> done);
  bool idle() const { return thread_.idle(); }  // nothing is waiting or being written
  struct Durable {
    std::string job;
    double seconds = 0;  // that the write took; of several that went together the first has them all
  };
  std::vector<Durable> poll();       // commits that have become durable since the last call, in order
  void drain() { thread_.drain(); }  // waits until idle

 private:
  void write_handed();

  CheckpointWriter writer_;
  std::mutex mutex_;
  std::vector<Commit> handed_;  // guarded by mutex_
  std::vector<Durable> durable_;
  WriteThread thread_;  // last: ends before what it writes with
};

}  // namespace coppice
