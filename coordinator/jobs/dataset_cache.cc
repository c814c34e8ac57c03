#include "coordinator/jobs/dataset_cache.h"

#include <algorithm>
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
  const auto whole = [](Dataset all) {
    std::vector<Dataset> parts;
    parts.push_back(std::move(all));
    return parts;
  };
  return read_parts({"", whole}, path, data, tokenizer, vocabulary, virtual_rows, most_bytes).front();
}

DatasetCache::Parts DatasetCache::read_parts(const Division& division, const std::string& path,
                                             const DataArguments& data, const Tokenizer* tokenizer,
                                             int64_t vocabulary, bool virtual_rows, int64_t most_bytes) {
  const auto read_now = [&] {
    return division.divide(reader_(path, data, tokenizer, vocabulary, virtual_rows, most_bytes));
  };
  Key key{.path = path,
          .keys = keys_of_rows(data),
          .vocabulary = vocabulary,
          .virtual_rows = virtual_rows,
          .division = division.name};
  if (!identify(key)) return keep(key, read_now(), false);

  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return !being_read_.contains(key); });
  if (Parts known = find(key); !known.empty()) return known;
  const Turn turn(*this, key);
  lock.unlock();
  std::vector<Dataset> parts = read_now();
  Key after = key;
  const bool unchanged = identify(after) && after == key;
  return keep(key, std::move(parts), unchanged);
}

// None where one is gone.
DatasetCache::Parts DatasetCache::find(const Key& key) {
  Parts parts;
  const auto known = known_.find(key);
  if (known == known_.end()) return parts;
  for (const auto& part : known->second) parts.push_back(part.lock());
  if (std::find(parts.begin(), parts.end(), nullptr) != parts.end()) parts.clear();
  return parts;
}

DatasetCache::Parts DatasetCache::keep(const Key& key, std::vector<Dataset> parts, bool remember) {
  std::lock_guard lock(mutex_);
  std::erase_if(known_, [&](const auto& entry) { return find(entry.first).empty(); });
  std::erase_if(held_, [](const auto& entry) { return entry.second.expired(); });
  Parts kept;
  for (Dataset& part : parts) {
    std::shared_ptr<const Dataset> one;
    const auto [first, end] = held_.equal_range(part.fingerprint);
    for (auto other = first; other != end && !one; ++other) {
      const auto dataset = other->second.lock();
      if (dataset && same(*dataset, part)) one = dataset;
    }
    if (!one) {
      part.identity = ++last_identity_;
      one = std::make_shared<const Dataset>(std::move(part));
      held_.emplace(one->fingerprint, one);
    }
    kept.push_back(std::move(one));
  }
  if (remember) known_[key].assign(kept.begin(), kept.end());
  return kept;
}

}  // namespace coppice
