#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/write_batch.h>

#include "common/base/error.h"
#include "common/store/kv_store.h"

namespace coppice {
namespace {

rocksdb::Options options_of_store() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  // The default mode opens a log that is rotten in the middle and silently drops what follows.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.write_buffer_size = 8 << 20;
  options.max_write_buffer_number = 2;
  options.max_background_jobs = 2;
  options.compression = rocksdb::kNoCompression;
  options.enable_blob_files = true;  // values are written once, not again at every level
  options.min_blob_size = 16 << 10;
  options.blob_file_size = 16 << 20;
  options.enable_blob_garbage_collection = true;
  options.blob_garbage_collection_age_cutoff = 1.0;
  options.blob_garbage_collection_force_threshold = 0.5;
  options.level0_file_num_compaction_trigger = 2;
  options.manifest_preallocation_size = 64 << 10;
  options.max_manifest_file_size = 1 << 20;
  options.keep_log_file_num = 2;
  options.max_log_file_size = 1 << 20;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

[[noreturn]] void raise(const rocksdb::Status& status, const std::string& folder) {
  const std::string message = folder + ": " + status.ToString();
  if (status.IsNoSpace() || message.find("No space left") != std::string::npos) {
    throw Error(ErrorCode::kExhausted, folder + ": the disk is full (" + status.ToString() + ")");
  }
  if (status.IsCorruption()) throw Error(ErrorCode::kInvalid, message);
  throw Error(ErrorCode::kFailed, message);
}

void check(const rocksdb::Status& status, const std::string& folder) {
  if (!status.ok()) raise(status, folder);
}

rocksdb::Slice slice(std::string_view text) {
  return {text.data(), text.size()};
}

std::optional<std::string> get_from(rocksdb::DB& db, const std::string& folder, std::string_view key) {
  std::string value;
  const rocksdb::Status status = db.Get({}, slice(key), &value);
  if (status.IsNotFound()) return std::nullopt;
  check(status, folder);
  return value;
}

void scan_in(rocksdb::DB& db, const std::string& folder, std::string_view prefix,
             const std::function<bool(std::string_view, std::string_view)>& visit) {
  const std::unique_ptr<rocksdb::Iterator> it(db.NewIterator({}));
  for (it->Seek(slice(prefix)); it->Valid() && it->key().starts_with(slice(prefix)); it->Next()) {
    if (!visit(it->key().ToStringView(), it->value().ToStringView())) return;
  }
  check(it->status(), folder);
}

// Says to other processes who holds the folder, and keeps them out. The system lets go of it when the process
// dies.
class Owner {
 public:
  explicit Owner(const std::string& folder) : path_(folder + "/OWNER") {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) throw Error(ErrorCode::kInvalid, path_ + ": " + std::strerror(errno));
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      char text[32] = {};
      const bool known = ::pread(fd_, text, sizeof text - 1, 0) > 0;
      ::close(fd_);
      throw Error(ErrorCode::kBusy,
                  folder + ": is in use by process " + (known ? text : "(unknown)") + "; stop it first");
    }
    const std::string pid = std::to_string(::getpid());
    if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, pid.data(), pid.size(), 0) < 0) {
      const int reason = errno;
      ::close(fd_);
      throw Error(reason == ENOSPC ? ErrorCode::kExhausted : ErrorCode::kInvalid,
                  path_ + ": " + std::strerror(reason));
    }
  }
  ~Owner() { ::close(fd_); }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;

 private:
  std::string path_;
  int fd_ = -1;
};

class RocksdbStore : public KvStore {
 public:
  RocksdbStore(const std::string& folder) : folder_(folder), owner_(folder) {
    rocksdb::DB* db = nullptr;
    check(rocksdb::DB::Open(options_of_store(), folder, &db), folder);
    db_.reset(db);
  }

  std::optional<std::string> get(std::string_view key) const override { return get_from(*db_, folder_, key); }
  void scan(std::string_view prefix,
            const std::function<bool(std::string_view key, std::string_view value)>& visit) const override {
    scan_in(*db_, folder_, prefix, visit);
  }

  void write(const Batch& batch, bool sync) override {
    rocksdb::WriteBatch changes;
    for (const Batch::Change& change : batch.changes) {
      check(change.value ? changes.Put(change.key, *change.value) : changes.Delete(change.key), folder_);
    }
    rocksdb::WriteOptions options;
    options.sync = sync;
    check(db_->Write(options, &changes), folder_);
  }

  void compact() override { check(db_->CompactRange({}, nullptr, nullptr), folder_); }

 private:
  std::string folder_;
  Owner owner_;
  std::unique_ptr<rocksdb::DB> db_;
};

class RocksdbReader : public KvReader {
 public:
  explicit RocksdbReader(const std::string& folder) : folder_(folder) {
    std::string own = (std::filesystem::temp_directory_path() / "coppice-reader-XXXXXX").string();
    if (::mkdtemp(own.data()) == nullptr) throw Error(ErrorCode::kFailed, own + ": " + std::strerror(errno));
    own_ = own;
    rocksdb::Options options = options_of_store();
    options.create_if_missing = false;
    options.max_open_files = -1;
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status = rocksdb::DB::OpenAsSecondary(options, folder, own_, &db);
    if (!status.ok()) {
      std::filesystem::remove_all(own_);
      raise(status, folder);
    }
    db_.reset(db);
    check(db_->TryCatchUpWithPrimary(), folder);
  }
  ~RocksdbReader() override {
    db_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(own_, ignored);
  }

  std::optional<std::string> get(std::string_view key) const override { return get_from(*db_, folder_, key); }
  void scan(std::string_view prefix,
            const std::function<bool(std::string_view key, std::string_view value)>& visit) const override {
    scan_in(*db_, folder_, prefix, visit);
  }

 private:
  std::string folder_, own_;
  std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace

std::unique_ptr<KvStore> open_rocksdb(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw Error(ErrorCode::kInvalid, folder + ": " + error.message());
  return std::make_unique<RocksdbStore>(folder);
}

std::unique_ptr<KvReader> open_rocksdb_readonly(const std::string& folder) {
  if (!std::filesystem::exists(folder + "/CURRENT")) throw not_found("{}: is no store", folder);
  return std::make_unique<RocksdbReader>(folder);
}

}  // namespace coppice
