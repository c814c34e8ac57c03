#pragma once
// The store thread: the only caller of a run folder's store. Commits are handed over, made durable beside the
// steps, and their end is polled. Thread: all methods from the main thread. Errors: what a commit threw comes
// out of poll() or drain(), once.

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/params/checkpoint.h"

namespace coppice {

class StoreThread {
 public:
  explicit StoreThread(KvStore& store);  // store outlives this
  ~StoreThread();                        // ends what was handed over

  void submit(Commit commit);
  bool idle() const;  // nothing is waiting or being written
  struct Durable {
    std::string job;
    int64_t version = 0;
    double seconds = 0;  // that the commit took
  };
  std::vector<Durable> poll();  // commits that have become durable since the last call, in order
  void drain();                 // waits until idle

 private:
  void work();
  void rethrow();

  CheckpointWriter writer_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Commit> waiting_;
  bool writing_ = false, stopping_ = false;
  std::vector<Durable> durable_;
  std::exception_ptr error_;
  std::thread thread_;  // last: begins when all else is there
};

}  // namespace coppice
