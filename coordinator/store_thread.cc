#include "coordinator/store_thread.h"

#include <exception>
#include <memory>
#include <new>
#include <utility>

namespace coppice {

void StoreThread::submit(Commit commit) {
  const std::string job = commit.record.name;
  {
    std::lock_guard lock(mutex_);
    handed_.push_back(std::move(commit));
  }
  thread_.submit([this] { write_handed(); },
                 [this, job](double seconds) {
                   durable_.push_back({job, seconds});
                 });
}

// All that wait now: the turns of those behind the first find nothing left to do.
void StoreThread::write_handed() {
  std::vector<Commit> commits;
  {
    std::lock_guard lock(mutex_);
    commits.swap(handed_);
  }
  for (size_t i = 0; i < commits.size(); ++i) writer_.commit(commits[i], i + 1 == commits.size());
}

void StoreThread::submit(std::function<void()> write, std::function<void(const std::string& error)> done) {
  const auto message = std::make_shared<std::string>();
  thread_.submit(
      [write = std::move(write), message] {
        try {
          write();
        } catch (const std::bad_alloc&) {
          *message = "memory has run out";
        } catch (const std::exception& error) {
          *message = error.what();
        }
      },
      [done = std::move(done), message](double) { done(*message); });
}

std::vector<StoreThread::Durable> StoreThread::poll() {
  thread_.poll();
  return std::exchange(durable_, {});
}

}  // namespace coppice
