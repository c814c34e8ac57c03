#pragma once
// A thread that writes beside the steps: what it is given is done in order, and told when it is done. Each
// rank that has a store has one, and it is the only caller of that store. Thread: all methods from the thread
// that made it; writes run on the writing thread, done callbacks inside poll() and drain(). Errors: what a
// write threw comes out of poll() or drain(), once; after it nothing more is written, and what was handed
// over is dropped: what is durable stays a state that was reached.

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace coppice {

class WriteThread {
 public:
  WriteThread();
  ~WriteThread();  // ends what was handed over; calls no done
  WriteThread(const WriteThread&) = delete;

  // done: told how long the write took; may be empty.
  void submit(std::function<void()> write, std::function<void(double seconds)> done);
  bool idle() const;  // nothing is waiting or being written
  bool poll();        // tells what has been done since the last call, in order; false where nothing was
  void drain();       // waits until idle, and tells

 private:
  struct Write {
    std::function<void()> write;
    std::function<void(double seconds)> done;
    double seconds = 0;
  };
  void work();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Write> waiting_;
  bool writing_ = false, stopping_ = false, broken_ = false;
  std::vector<Write> written_;
  std::exception_ptr error_;
  std::thread thread_;  // last: begins when all else is there
};

}  // namespace coppice
