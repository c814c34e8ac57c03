#pragma once
// A durable map from byte strings to byte strings with atomic batches: what checkpoints, job records and metrics are kept in.
// Keys are ordered as bytes. rocksdb_store is the real one; memory_store is its twin for tests and can inject faults.
// Thread: the writer's methods from one thread at a time (rank 0's store thread). Errors: kBusy (another process holds the folder, with
// its process id), kInvalid (corrupted, with file), kExhausted (disk full), kFailed.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace coppice {

struct Batch {
  struct Change {
    std::string key;
    std::optional<std::string> value;  // absent: the key is deleted
  };
  std::vector<Change> changes;
  void put(std::string key, std::string value) { changes.push_back({std::move(key), std::move(value)}); }
  void erase(std::string key) { changes.push_back({std::move(key), std::nullopt}); }
};

class KvReader {
 public:
  virtual ~KvReader() = default;
  virtual std::optional<std::string> get(std::string_view key) const = 0;
  // Calls visit(key, value) in order of keys for all that begin with prefix; stops when it returns false.
  virtual void scan(std::string_view prefix,
                    const std::function<bool(std::string_view key, std::string_view value)>& visit) const = 0;
};

class KvStore : public KvReader {
 public:
  // All of the batch or nothing. When it returns with sync, it survives the loss of the process and of power.
  virtual void write(const Batch& batch, bool sync) = 0;
  virtual void compact() = 0;                   // gives the space of old versions back now
};

// Opens (and makes) the store in folder. kBusy where another process has it, with who.
std::unique_ptr<KvStore> open_rocksdb(const std::string& folder);
// Reads a store, also while another process writes it (RocksDB's secondary instance): a state that was committed.
std::unique_ptr<KvReader> open_rocksdb_readonly(const std::string& folder);
// In memory; copies share nothing.
std::unique_ptr<KvStore> make_memory_store();

}  // namespace coppice
