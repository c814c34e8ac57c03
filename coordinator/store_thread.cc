#include "coordinator/store_thread.h"

#include <memory>
#include <utility>

namespace coppice {

void StoreThread::submit(Commit commit) {
  const std::string job = commit.record.name;
  const int64_t version = commit.head.version;
  const auto shared = std::make_shared<const Commit>(std::move(commit));
  thread_.submit([this, shared] { writer_.commit(*shared); },
                 [this, job, version](double seconds) {
                   durable_.push_back({job, version, seconds});
                 });
}

std::vector<StoreThread::Durable> StoreThread::poll() {
  thread_.poll();
  return std::exchange(durable_, {});
}

}  // namespace coppice
