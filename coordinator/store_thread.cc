#include "coordinator/store_thread.h"

#include <chrono>
#include <utility>

namespace coppice {

StoreThread::StoreThread(KvStore& store) : writer_(store), thread_([this] { work(); }) {}

StoreThread::~StoreThread() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void StoreThread::submit(Commit commit) {
  {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(commit));
  }
  changed_.notify_all();
}

bool StoreThread::idle() const {
  std::lock_guard lock(mutex_);
  return waiting_.empty() && !writing_;
}

std::vector<StoreThread::Durable> StoreThread::poll() {
  std::lock_guard lock(mutex_);
  rethrow();
  return std::exchange(durable_, {});
}

void StoreThread::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return error_ || (waiting_.empty() && !writing_); });
  rethrow();
}

void StoreThread::rethrow() {
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// After an error nothing more is written: what is durable stays a state that was reached.
void StoreThread::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    const Commit commit = std::move(waiting_.front());
    waiting_.pop_front();
    writing_ = true;
    lock.unlock();
    std::exception_ptr error;
    const auto began = std::chrono::steady_clock::now();
    try {
      writer_.commit(commit);
    } catch (...) {
      error = std::current_exception();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    lock.lock();
    writing_ = false;
    if (error) {
      error_ = error;
      waiting_.clear();
    } else {
      durable_.push_back({commit.record.name, commit.head.version, took.count()});
    }
    changed_.notify_all();
  }
}

}  // namespace coppice
