#include "coordinator/params/write_thread.h"

#include <chrono>
#include <utility>

namespace coppice {

WriteThread::WriteThread() : thread_([this] { work(); }) {}

WriteThread::~WriteThread() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WriteThread::submit(std::function<void()> write, std::function<void(double seconds)> done) {
  {
    std::lock_guard lock(mutex_);
    if (broken_) return;
    waiting_.push_back({std::move(write), std::move(done)});
  }
  changed_.notify_all();
}

bool WriteThread::idle() const {
  std::lock_guard lock(mutex_);
  return waiting_.empty() && !writing_;
}

bool WriteThread::poll() {
  std::vector<Write> written;
  {
    std::lock_guard lock(mutex_);
    if (written_.empty() && error_) std::rethrow_exception(std::exchange(error_, nullptr));
    written.swap(written_);
  }
  for (const Write& write : written) {
    if (write.done) write.done(write.seconds);
  }
  return !written.empty();
}

void WriteThread::drain() {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_.empty() && !writing_; });
  }
  while (poll()) {
  }
}

void WriteThread::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Write write = std::move(waiting_.front());
    waiting_.pop_front();
    writing_ = true;
    lock.unlock();
    std::exception_ptr error;
    const auto began = std::chrono::steady_clock::now();
    try {
      write.write();
    } catch (...) {
      error = std::current_exception();
    }
    write.write = nullptr;  // what it held may be large
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    lock.lock();
    writing_ = false;
    if (error) {
      error_ = error;
      broken_ = true;
      waiting_.clear();
    } else {
      write.seconds = took.count();
      written_.push_back(std::move(write));
    }
    changed_.notify_all();
  }
}

}  // namespace coppice
