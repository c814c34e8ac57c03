// The writing side of the RocksDB store, and when it gives space back.
//
// A commit's bytes are first in the log, then (flush) in a blob file and a table, and old values go when
// tables are merged (compaction). Left to itself RocksDB keeps logs up to the size of its buffers and merges
// when tables are many: far above four times a small state. Here write() flushes and merges, when a quarter
// of what is live has been written since the last time. With live bytes L and a commit of S <= L, the most
// there is at once: 1.5 L of live values and half-dead blob files, L/2 + S of log, S of the blobs it becomes.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include "common/base/error.h"
#include "common/store/folder_lock.h"
#include "common/store/kv_store.h"
#include "common/store/rocksdb_common.h"

namespace coppice {
namespace {

constexpr uint64_t kLeastFlushBytes = 128 << 10;  // a flush costs several syncs, however little it writes

// RocksDB makes a new, empty store where CURRENT is missing, whatever else is there.
void refuse_beheaded(const std::string& folder) {
  if (std::filesystem::exists(folder + "/CURRENT")) return;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const auto extension = entry.path().extension();
    if (extension == ".sst" || extension == ".blob") {
      throw invalid("{}/CURRENT: is missing, but {} is there: the store is damaged", folder,
                    entry.path().filename().string());
    }
  }
}

class RocksdbStore : public KvStore {
 public:
  explicit RocksdbStore(const std::string& folder) : folder_(folder), lock_(folder) {
    refuse_beheaded(folder);
    rocksdb::Options options = rocks::store_options();
    options.create_if_missing = true;
    rocksdb::DB* db = nullptr;
    check(rocksdb::DB::Open(options, folder, &db), "open");
    db_.reset(db);
    // What a log held has become tables: a run that is killed again and again would only add to them.
    merge();
  }

  std::optional<std::string> get(std::string_view key) const override {
    std::string value;
    const rocksdb::Status status = db_->Get({}, rocksdb::Slice(key.data(), key.size()), &value);
    if (status.IsNotFound()) return std::nullopt;
    check(status, key);
    return value;
  }
  void scan(std::string_view prefix,
            const std::function<bool(std::string_view key, std::string_view value)>& visit) const override {
    check(rocks::scan(*db_, prefix, visit), prefix);
  }

  void write(const Batch& batch, bool sync) override {
    size_t bytes = 0;
    for (const Batch::Change& change : batch.changes) bytes += change.key.size() + change.value.size() + 16;
    rocksdb::WriteBatch changes(bytes);  // in one piece: else its growth copies large values again and again
    for (const Batch::Change& change : batch.changes) {
      switch (change.kind) {
        case Batch::Kind::kPut:
          check(changes.Put(change.key, change.value), "write");
          break;
        case Batch::Kind::kErase:
          check(changes.Delete(change.key), "write");
          break;
        case Batch::Kind::kEraseRange:
          check(changes.DeleteRange(change.key, change.value), "write");
          break;
      }
    }
    rocksdb::WriteOptions options;
    options.sync = sync;
    check(db_->Write(options, &changes), "write");
    unflushed_bytes_ += changes.GetDataSize();
    // Only where a commit ends: before, its large values are garbage to nobody.
    if (sync && !batch.to_be_continued && unflushed_bytes_ >= std::max(kLeastFlushBytes, live_bytes_ / 2)) {
      check(db_->Flush({}), "flush");
      wait_for_deletions();
      merge();
    }
  }

 private:
  void check(const rocksdb::Status& status, std::string_view doing) const {
    rocks::check(status, folder_, doing, db_.get());
  }

  uint64_t property(const std::string& name) const {
    uint64_t value = 0;
    if (!db_->GetIntProperty(name, &value)) throw failed("{}: RocksDB does not know {}", folder_, name);
    return value;
  }

  // Drops what was overwritten or erased: from the tables, and with them the blob files in which nothing is
  // live. Blob files that are live in part are rewritten when more than a third of their bytes is garbage.
  void merge() {
    rocksdb::CompactRangeOptions options;
    options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kDisable;
    check(db_->CompactRange(options, nullptr, nullptr), "merge");
    const uint64_t blobs = property(rocksdb::DB::Properties::kLiveBlobFileSize);
    const uint64_t garbage = property(rocksdb::DB::Properties::kLiveBlobFileGarbageSize);
    if (garbage > blobs / 3) {
      options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
      options.blob_garbage_collection_age_cutoff = 1.0;
      options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
      check(db_->CompactRange(options, nullptr, nullptr), "merge");
    }
    live_bytes_ = property(rocksdb::DB::Properties::kTotalSstFilesSize) + blobs - std::min(blobs, garbage);
    unflushed_bytes_ = 0;
    wait_for_deletions();
  }

  // RocksDB deletes files that nothing needs any more on a thread of its own, which may be late: another log
  // or table would stand beside them. To list the logs waits for it.
  void wait_for_deletions() {
    rocksdb::VectorLogPtr logs;
    check(db_->GetSortedWalFiles(logs), "list the logs");
  }

  std::string folder_;
  FolderLock lock_;  // taken before the store is opened, let go of after it is closed
  std::unique_ptr<rocksdb::DB> db_;
  uint64_t unflushed_bytes_ = 0;
  uint64_t live_bytes_ = 0;  // at the last merge
};

// So that a folder just made is still in its parent after a loss of power.
void sync_parent(const std::string& folder) {
  const std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  const std::filesystem::path parent =
      path.has_filename() ? path.parent_path() : path.parent_path().parent_path();
  const int fd = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // may be entered, not read: then another has made it
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

std::unique_ptr<KvStore> open_rocksdb(const std::string& folder) {
  std::error_code error;
  const bool made = std::filesystem::create_directories(folder, error);
  if (error) throw invalid("{}: cannot be made: {}", folder, error.message());
  if (made) sync_parent(folder);
  return std::make_unique<RocksdbStore>(folder);
}

}  // namespace coppice
