#include "common/store/rocksdb_common.h"

#include <memory>

#include <rocksdb/env.h>
#include <rocksdb/file_checksum.h>

#include "common/base/error.h"

namespace coppice::rocks {
namespace {

// RocksDB's own log would be larger than a small store. What goes wrong comes back as a status, and is
// thrown.
class NoLog : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::Slice slice(std::string_view text) {
  return {text.data(), text.size()};
}

}  // namespace

rocksdb::Options store_options() {
  rocksdb::Options options;
  options.paranoid_checks = true;
  // The default mode opens a log that is rotten in the middle and silently drops what follows.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.compression = rocksdb::kNoCompression;  // float32 masters do not compress
  // Tensors are written once, not again whenever the small values beside them are merged.
  options.enable_blob_files = true;
  options.min_blob_size = 2 << 10;
  options.blob_file_size = 64 << 20;
  options.file_checksum_gen_factory =
      rocksdb::GetFileChecksumGenCrc32cFactory();  // a damaged file can be named
  // When to flush and to merge is the store's own decision (rocksdb_store.cc); this is only the bound of
  // memory.
  options.disable_auto_compactions = true;
  options.write_buffer_size = 16 << 20;
  options.max_write_buffer_number = 2;
  options.max_background_jobs = 2;
  // By the caller alone: RocksDB does not live through a system that has no thread to give.
  options.max_file_opening_threads = 1;
  // Files are as large as what is in them.
  options.allow_fallocate = false;
  options.max_manifest_file_size = 64 << 10;
  options.info_log = std::make_shared<NoLog>();
  options.info_log_level = rocksdb::InfoLogLevel::FATAL_LEVEL;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

bool file_is_gone(const rocksdb::Status& status) {
  return status.IsPathNotFound() ||
         (status.IsIOError() && status.subcode() == rocksdb::Status::kPathNotFound);
}

void check(const rocksdb::Status& status, const std::string& folder, std::string_view doing,
           rocksdb::DB* db) {
  if (status.ok()) return;
  std::string said = status.ToString();
  const auto says = [&](std::string_view words) { return said.find(words) != std::string::npos; };
  if (status.IsNoSpace() || says("No space left") || says("quota exceeded") || says("File too large")) {
    throw Error(ErrorCode::kExhausted, fmt::format("{}: the disk is full ({}: {})", folder, doing, said));
  }
  if (status.IsCorruption() || file_is_gone(status)) {
    if (db != nullptr && !says(folder)) {  // of a blob it does not say which
      const rocksdb::Status found = db->VerifyFileChecksums({});
      if (!found.ok()) said += "; " + found.ToString();
    }
    throw invalid("{}: the store is damaged ({}: {})", folder, doing, said);
  }
  if (says("Permission denied") || says("Read-only file system")) {
    throw invalid("{}: cannot be written ({}: {})", folder, doing, said);
  }
  throw failed("{}: {}: {}", folder, doing, said);
}

rocksdb::Status scan(rocksdb::DB& db, std::string_view prefix,
                     const std::function<bool(std::string_view key, std::string_view value)>& visit) {
  const std::unique_ptr<rocksdb::Iterator> it(db.NewIterator({}));
  for (it->Seek(slice(prefix)); it->Valid() && it->key().starts_with(slice(prefix)); it->Next()) {
    if (!visit(it->key().ToStringView(), it->value().ToStringView())) break;
  }
  return it->status();
}

}  // namespace coppice::rocks
