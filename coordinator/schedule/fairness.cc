#include "coordinator/schedule/fairness.h"

#include <algorithm>
#include <numeric>

#include "common/base/check.h"

namespace coppice {

FairQueue::Entry* FairQueue::find(const std::string& job) {
  for (Entry& entry : entries_) {
    if (entry.job == job) return &entry;
  }
  return nullptr;
}

void FairQueue::add(const std::string& job, int64_t weight) {
  CHECK(weight >= 1 && find(job) == nullptr);
  entries_.push_back({job, weight, 0, {}});
}

void FairQueue::remove(const std::string& job) {
  if (find(job) != nullptr) clear(job);
  std::erase_if(entries_, [&](const Entry& entry) { return entry.job == job; });
  turn_ = entries_.empty() ? 0 : turn_ % entries_.size();
}

void FairQueue::push(const std::string& job, int64_t rows) {
  Entry* entry = find(job);
  CHECK(entry != nullptr && rows >= 1);
  entry->ready.push_back(rows);
  ready_rows_ += rows;
}

void FairQueue::clear(const std::string& job) {
  Entry* entry = find(job);
  CHECK(entry != nullptr);
  ready_rows_ -= std::accumulate(entry->ready.begin(), entry->ready.end(), int64_t(0));
  entry->ready.clear();
  entry->credit_rows = 0;
}

bool FairQueue::empty() const {
  return std::all_of(entries_.begin(), entries_.end(),
                     [](const Entry& entry) { return entry.ready.empty(); });
}

}  // namespace coppice
