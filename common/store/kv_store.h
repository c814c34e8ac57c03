#pragma once
// A durable map from byte strings to byte strings with atomic batches: what checkpoints, job records and
// metrics are kept in. Keys are ordered as bytes. open_rocksdb is the real one, make_memory_store its twin
// for tests.
//
// The store on disk stays below four times what is live in it (from 256 KiB of live values on; below that it
// is under 1 MiB), because it gives old values back itself, inside a synced write().
//
// Thread: a store's methods from one thread at a time (rank 0's store thread); a reader's likewise. Errors:
// kInvalid (damaged, or a folder that cannot be written), kBusy (another process holds the folder: named by
// its process id), kExhausted (the disk is full), kNotFound (no store to read), kFailed (anything else).
// After a write that threw, a store takes no more writes: open it again.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace coppice {

// Changes that happen together, in this order.
struct Batch {
  enum class Kind { kPut, kErase, kEraseRange };
  struct Change {
    Kind kind;
    std::string key;
    std::string value;  // of a range: its end, which is not in it
  };
  std::vector<Change> changes;
  bool to_be_continued = false;  // another batch will erase what this replaces: giving back waits for it
  void put(std::string key, std::string value) {
    changes.push_back({Kind::kPut, std::move(key), std::move(value)});
  }
  void erase(std::string key) { changes.push_back({Kind::kErase, std::move(key), {}}); }
  void erase_range(std::string begin, std::string end) {
    changes.push_back({Kind::kEraseRange, std::move(begin), std::move(end)});
  }
};

class KvReader {
 public:
  virtual ~KvReader() = default;
  virtual std::optional<std::string> get(std::string_view key) const = 0;
  // Calls visit(key, value) in order of keys for all that begin with prefix; stops when it returns false.
  virtual void scan(std::string_view prefix,
                    const std::function<bool(std::string_view key, std::string_view value)>& visit) const = 0;
  // A reader beside a writing process sees the store as it was at its opening, or at the last refresh().
  // Where the writer has given a value of that view back meanwhile, get and scan throw kBusy: refresh and
  // read again.
  virtual void refresh() {}
};

class KvStore : public KvReader {
 public:
  // All of the batch or nothing. When it returns with sync, it and all writes before it survive the loss of
  // the process and of power; without, they may be lost from the end on, never in between.
  virtual void write(const Batch& batch, bool sync) = 0;
};

// Opens (and makes) the store in folder.
std::unique_ptr<KvStore> open_rocksdb(const std::string& folder);
// Reads a store, also while another process writes it (RocksDB's secondary instance): a state that was
// written.
std::unique_ptr<KvReader> open_rocksdb_readonly(const std::string& folder);
std::unique_ptr<KvStore> make_memory_store();

}  // namespace coppice
