#pragma once
// A store whose process dies: after a number of writes it takes no more. What it wrote lives in a memory
// store, from which the next process goes on. Of the last writes that were not synced, a loss of power may
// take any number from the end on.

#include <memory>
#include <vector>

#include "common/base/check.h"
#include "common/store/kv_store.h"

namespace coppice {

struct Crash {};  // thrown where the process would be gone

class CrashingStore : public KvStore {
 public:
  // Dies at write number `writes` (0: at the first).
  CrashingStore(KvStore& disk, int writes) : disk_(disk), writes_left_(writes) {}

  std::optional<std::string> get(std::string_view key) const override {
    CHECK(unsynced_.empty());  // no commit reads what it has just written
    return disk_.get(key);
  }
  void scan(std::string_view prefix,
            const std::function<bool(std::string_view key, std::string_view value)>& visit) const override {
    CHECK(unsynced_.empty());
    disk_.scan(prefix, visit);
  }
  void write(const Batch& batch, bool sync) override {
    if (writes_left_-- == 0) throw Crash();
    unsynced_.push_back(batch);
    if (sync) lose_power(0);
  }

  // What is not synced reaches the disk but for the last `lost` writes.
  void lose_power(size_t lost) {
    for (size_t i = 0; i + lost < unsynced_.size(); ++i) disk_.write(unsynced_[i], true);
    unsynced_.clear();
  }
  size_t unsynced() const { return unsynced_.size(); }

 private:
  KvStore& disk_;
  int writes_left_;
  std::vector<Batch> unsynced_;
};

}  // namespace coppice
