#pragma once
// One pool computes. parallel_for hands numbered tasks to the pool's threads and the caller; which thread runs a task and
// in what order is open, so a task must be a function of its number alone: then the number of threads shows in no bits.
// Thread: parallel_for is called by one thread at a time and never from inside a task. Errors: the first exception that a
// task throws reaches the caller after all running tasks have ended.

#include <cstdint>
#include <functional>
#include <memory>

namespace coppice {

class ThreadPool {
 public:
  // threads: of the caller and threads - 1 others. on_start runs once in every thread, the caller's included.
  explicit ThreadPool(int threads, const std::function<void()>& on_start = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  // Runs task(i, worker) for i in [0, count); worker in [0, threads()) says which thread runs it, for its own scratch.
  void parallel_for(int64_t count, const std::function<void(int64_t, int)>& task);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coppice
