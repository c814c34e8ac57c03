#pragma once
// Who goes into the next pack: deficit round robin by rows (Shreedhar and Varghese, SIGCOMM 1995), weighted
// by priority. Each job in turn is given quantum * weight rows of credit and takes micro-batches while its
// credit covers them and the pack has room. A job with nothing ready keeps no credit. Decides from numbers
// alone; never touches a tensor. Thread: one.

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace coppice {

class FairQueue {
 public:
  explicit FairQueue(int64_t quantum_rows = 256) : quantum_rows_(quantum_rows) {}

  void add(const std::string& job, int64_t weight);
  void remove(const std::string& job);
  void push(const std::string& job,
            int64_t rows);             // one more micro-batch of the job is ready, behind its others
  void clear(const std::string& job);  // none of its micro-batches is ready any more
  bool empty() const;
  int64_t ready_rows() const { return ready_rows_; }  // of all micro-batches that are ready

  // Takes micro-batches for a pack of at most budget_rows and names their jobs, in the order taken; a job's
  // own in order. admits says whether a job may be in this pack. A micro-batch above the budget goes alone,
  // so that nothing waits for ever.
  template <typename Admits>
  std::vector<std::string> take(int64_t budget_rows, Admits admits);

 private:
  struct Entry {
    std::string job;
    int64_t weight = 1;
    int64_t credit_rows = 0;
    std::deque<int64_t> ready;
  };
  Entry* find(const std::string& job);

  int64_t quantum_rows_;
  std::vector<Entry> entries_;
  size_t turn_ = 0;  // whose turn it is
  int64_t ready_rows_ = 0;
};

template <typename Admits>
std::vector<std::string> FairQueue::take(int64_t budget_rows, Admits admits) {
  std::vector<std::string> taken;
  std::optional<size_t> left_out;  // the first for whom there was no place: it begins the next pack
  int64_t left = budget_rows;
  for (bool possible = true; possible;) {
    possible = false;
    for (size_t visited = 0; visited < entries_.size(); ++visited, turn_ = (turn_ + 1) % entries_.size()) {
      Entry& entry = entries_[turn_];
      if (entry.ready.empty()) continue;
      if (!admits(entry.job)) {
        if (!left_out) left_out = turn_;
        continue;
      }
      const auto fits = [&] {
        return !entry.ready.empty() && (entry.ready.front() <= left || taken.empty());
      };
      if (!fits()) {
        if (!left_out) left_out = turn_;
        continue;
      }
      entry.credit_rows += quantum_rows_ * entry.weight;
      while (fits() && entry.ready.front() <= entry.credit_rows) {
        entry.credit_rows -= entry.ready.front();
        left -= entry.ready.front();
        ready_rows_ -= entry.ready.front();
        entry.ready.pop_front();
        taken.push_back(entry.job);
      }
      if (entry.ready.empty()) entry.credit_rows = 0;
      possible = possible || fits();
    }
  }
  if (left_out) turn_ = *left_out;
  return taken;
}

}  // namespace coppice
