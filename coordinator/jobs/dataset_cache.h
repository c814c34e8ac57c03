#pragma once
// One copy in memory of what a data file gives, however many jobs read it. A dataset is handed out again
// while anybody holds it, to whoever reads the same file with the same keys; when the last has let it go, it
// is forgotten and the file is read anew. A file is the same while its identity is: device, inode, size and
// times. One whose identity changes while it is read is handed out, and not remembered. Files that differ and
// give the same rows give one dataset too: a file that was only touched takes no memory twice. What a file is
// divided into is held and handed out likewise. One cache serves one backbone: the tokenizer is the same for
// all calls.
//
// Thread: any. Whoever reads what another is reading waits for it. Errors: those of read_dataset; none is
// handed on to those that wait, who read for themselves.

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "coordinator/jobs/dataset.h"

namespace coppice {

class DatasetCache {
 public:
  using Reader =
      std::function<Dataset(const std::string& path, const DataArguments& data, const Tokenizer* tokenizer,
                            int64_t vocabulary, bool virtual_rows, int64_t most_bytes)>;
  explicit DatasetCache(Reader reader = read_dataset) : reader_(std::move(reader)) {}

  // As read_dataset, whose arguments these are. most_bytes: of memory that is not taken already.
  std::shared_ptr<const Dataset> read(const std::string& path, const DataArguments& data,
                                      const Tokenizer* tokenizer, int64_t vocabulary, bool virtual_rows,
                                      int64_t most_bytes = INT64_MAX);

  // The same, divided into parts: none of which is read again while somebody holds all of them.
  struct Division {
    std::string name;  // all that the parts depend on beside the rows
    std::function<std::vector<Dataset>(Dataset)> divide;
  };
  using Parts = std::vector<std::shared_ptr<const Dataset>>;
  Parts read_parts(const Division& division, const std::string& path, const DataArguments& data,
                   const Tokenizer* tokenizer, int64_t vocabulary, bool virtual_rows,
                   int64_t most_bytes = INT64_MAX);

 private:
  // All that the rows, and the messages about them, depend on.
  struct Key {
    std::string path;
    uint64_t device = 0, inode = 0;
    int64_t size = 0, modified_ns = 0, changed_ns = 0;  // changed: a copy may be given its original's mtime
    std::string keys;
    int64_t vocabulary = 0;
    bool virtual_rows = false;
    std::string division;  // none: the whole file
    auto operator<=>(const Key&) const = default;
  };
  class Turn;
  static bool identify(Key& key);
  Parts find(const Key& key);
  Parts keep(const Key& key, std::vector<Dataset> parts, bool remember);

  const Reader reader_;
  std::mutex mutex_;
  std::condition_variable ended_;  // the reading of a file
  // Guarded by mutex_.
  std::map<Key, std::vector<std::weak_ptr<const Dataset>>> known_;
  std::multimap<uint64_t, std::weak_ptr<const Dataset>> held_;  // by fingerprint: all, remembered or not
  std::set<Key> being_read_;
  int64_t last_identity_ = 0;
};

}  // namespace coppice
