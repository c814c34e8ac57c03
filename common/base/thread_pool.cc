#include "common/base/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "common/base/check.h"

namespace coppice {

struct ThreadPool::State {
  const std::function<void(int64_t, int)>* task = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  std::atomic<uint64_t> round{0};
  std::atomic<int> running{0};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::exception_ptr error;
  std::vector<std::thread> helpers;

  void drain(int worker) {
    try {
      for (int64_t i; (i = next.fetch_add(1)) < count;) (*task)(i, worker);
    } catch (...) {
      next.store(count);
      std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }

  // Operators follow each other within microseconds, so a helper spins a little before it sleeps.
  uint64_t wait_for_round(uint64_t seen) {
    for (int spin = 0; spin < 2000; ++spin) {
      if (round.load(std::memory_order_acquire) != seen) return round.load();
      __builtin_ia32_pause();
    }
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return round.load() != seen; });
    return round.load();
  }

  void help(int worker, const std::function<void()>& on_start) {
    if (on_start) on_start();
    for (uint64_t seen = 0;;) {
      seen = wait_for_round(seen);
      if (stopping.load()) return;
      drain(worker);
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  void start_round() {
    std::lock_guard lock(mutex);
    round.fetch_add(1, std::memory_order_release);
    wake.notify_all();
  }
};

ThreadPool::ThreadPool(int threads, const std::function<void()>& on_start) : state_(std::make_unique<State>()) {
  CHECK(threads >= 1);
  if (on_start) on_start();
  for (int worker = 1; worker < threads; ++worker) {
    state_->helpers.emplace_back([this, worker, on_start] { state_->help(worker, on_start); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true);
  state_->start_round();
  for (auto& helper : state_->helpers) helper.join();
}

int ThreadPool::threads() const { return int(state_->helpers.size()) + 1; }

void ThreadPool::parallel_for(int64_t count, const std::function<void(int64_t, int)>& task) {
  if (count <= 0) return;
  State& state = *state_;
  if (count == 1 || state.helpers.empty()) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  state.task = &task;
  state.count = count;
  state.error = nullptr;
  state.next.store(0);
  state.running.store(int(state.helpers.size()));
  state.start_round();
  state.drain(0);
  // The helpers end within a task of each other; where another process has a core, it shall have it.
  for (int spin = 0; state.running.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < 2000) {
      __builtin_ia32_pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (state.error) std::rethrow_exception(state.error);
}

}  // namespace coppice
