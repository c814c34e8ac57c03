// The reading side of the RocksDB store: a view of what is on disk at its opening. It writes nothing and
// takes no lock, so it does not hinder who writes the store, and may itself meet files that come and go.
//
// Why not RocksDB's secondary instance, which is made for this: in RocksDB 7.8 reading a blob through one
// crashes (it keeps references to strings that are gone), and after a catch-up its memtable can hide newer
// values that have been flushed.

#include <chrono>
#include <filesystem>
#include <thread>

#include <rocksdb/db.h>

#include "common/base/error.h"
#include "common/io/files.h"
#include "common/store/kv_store.h"
#include "common/store/rocksdb_common.h"

namespace coppice {
namespace {

constexpr auto kPatience =
    std::chrono::seconds(20);  // with a writer that changes files as fast as they are read
constexpr auto kPause = std::chrono::milliseconds(10);

class RocksdbReader : public KvReader {
 public:
  explicit RocksdbReader(const std::string& folder) : folder_(folder) { open(); }

  // By a scan: in RocksDB 7.8, Get on a store that is open for reading does not find values that are blobs.
  std::optional<std::string> get(std::string_view key) const override {
    std::optional<std::string> found;
    scan(key, [&](std::string_view at, std::string_view value) {
      if (at == key) found = value;
      return false;
    });
    return found;
  }
  void scan(std::string_view prefix,
            const std::function<bool(std::string_view key, std::string_view value)>& visit) const override {
    check(rocks::scan(*db_, prefix, visit), prefix);
  }
  void refresh() override { open(); }

 private:
  // Opening reads the manifest, then lists and reads the logs. Where a flush came between, what it moved out
  // of a log is in neither: the manifest, which every flush and merge appends to, must be the same before and
  // after.
  void open() {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    for (;;) {
      db_.reset();
      const auto before = state_of_manifest();
      rocksdb::DB* db = nullptr;
      const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(rocks::store_options(), folder_, &db);
      db_.reset(db);
      if (state_of_manifest() == before) return rocks::check(status, folder_, "open", db);
      if (std::chrono::steady_clock::now() > until) {
        throw Error(ErrorCode::kBusy,
                    fmt::format("{}: is changed faster than it can be read; try again", folder_));
      }
      std::this_thread::sleep_for(kPause);
    }
  }

  std::pair<std::string, uintmax_t> state_of_manifest() const {
    std::string current = read_file(folder_ + "/CURRENT");
    while (!current.empty() && current.back() == '\n') current.pop_back();
    std::error_code gone;
    const uintmax_t size = std::filesystem::file_size(folder_ + "/" + current, gone);
    return {std::move(current), size};
  }

  void check(const rocksdb::Status& status, std::string_view doing) const {
    if (rocks::file_is_gone(status)) {
      throw Error(ErrorCode::kBusy,
                  fmt::format("{}: was changed while it was read, or has lost a file ({}: {})", folder_,
                              doing, status.ToString()));
    }
    rocks::check(status, folder_, doing, db_.get());
  }

  std::string folder_;
  std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace

std::unique_ptr<KvReader> open_rocksdb_readonly(const std::string& folder) {
  if (!std::filesystem::exists(folder + "/CURRENT"))
    throw not_found("{}: is no store (it has no CURRENT)", folder);
  return std::make_unique<RocksdbReader>(folder);
}

}  // namespace coppice
