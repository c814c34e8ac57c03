#include "coordinator/jobs/dataset_cache.h"

#include <ctime>
#include <utility>

#include <sys/stat.h>

#include "coordinator/jobs/data_arguments.h"

namespace coppice {
namespace {

int64_t nanoseconds(const timespec& time) {
  return int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

// Of data: all keys, so that one that is added counts, but those that say which rows are used for what.
std::string keys_of_rows(const DataArguments& data) {
  Json keys = data_keys(data);
  for (const char* other : {"train", "eval", "eval_split", "shuffle"}) keys.erase(other);
  return keys.dump();
}

bool same(const Dataset& a, const Dataset& b) {
  return a.truncated == b.truncated && a.dropped == b.dropped && a.examples == b.examples;
}

}  // namespace

// Of the one that reads a file; at its end, whatever it was, those that wait look again.
class DatasetCache::Turn {
 public:
  Turn(DatasetCache& cache, const Key& key) : cache_(cache), key_(key) { cache_.being_read_.insert(key_); }
  ~Turn() {
    {
      std::lock_guard lock(cache_.mutex_);
      cache_.being_read_.erase(key_);
    }
    cache_.ended_.notify_all();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  DatasetCache& cache_;
  const Key& key_;
};

// Fills in what the file is now. False where that does not tell one state of it from the next: it is no
// regular file, or was written in this very tick of the clock that gives files their times, in which it could
// be written again.
bool DatasetCache::identify(Key& key) {
  struct stat status {};
  timespec now{};
  if (::stat(key.path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
  if (::clock_gettime(CLOCK_REALTIME_COARSE, &now) != 0) return false;
  key.device = status.st_dev;
  key.inode = status.st_ino;
  key.size = status.st_size;
  key.modified_ns = nanoseconds(status.st_mtim);
  key.changed_ns = nanoseconds(status.st_ctim);
  return key.changed_ns < nanoseconds(now);
}

std::shared_ptr<const Dataset> DatasetCache::read(const std::string& path, const DataArguments& data,
                                                  const Tokenizer* tokenizer, int64_t vocabulary,
                                                  bool virtual_rows, int64_t most_bytes) {
  const auto read_now = [&] {
    return std::make_shared<Dataset>(reader_(path, data, tokenizer, vocabulary, virtual_rows, most_bytes));
  };
  Key key{.path = path, .keys = keys_of_rows(data), .vocabulary = vocabulary, .virtual_rows = virtual_rows};
  if (!identify(key)) return keep(key, read_now(), false);

  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return !being_read_.contains(key); });
  if (const auto known = known_.find(key); known != known_.end()) {
    if (auto dataset = known->second.lock()) return dataset;
  }
  const Turn turn(*this, key);
  lock.unlock();
  auto dataset = read_now();
  Key after = key;
  const bool unchanged = identify(after) && after == key;
  return keep(key, std::move(dataset), unchanged);
}

std::shared_ptr<const Dataset> DatasetCache::keep(const Key& key, std::shared_ptr<Dataset> read,
                                                  bool remember) {
  std::lock_guard lock(mutex_);
  const auto let_go = [](const auto& entry) { return entry.second.expired(); };
  std::erase_if(known_, let_go);
  std::erase_if(held_, let_go);
  std::shared_ptr<const Dataset> kept;
  const auto [first, end] = held_.equal_range(read->fingerprint);
  for (auto other = first; other != end && !kept; ++other) {
    const auto dataset = other->second.lock();
    if (dataset && same(*dataset, *read)) kept = dataset;
  }
  if (!kept) {
    read->identity = ++last_identity_;
    kept = std::move(read);
    held_.emplace(kept->fingerprint, kept);
  }
  if (remember) known_[key] = kept;
  return kept;
}

}  // namespace coppice
