#pragma once
// What the writing and the reading side of the RocksDB store share: options, errors, reads. Private to this
// folder. Thread: any. Errors: check() throws as kv_store.h says.

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include <rocksdb/db.h>
#include <rocksdb/options.h>

namespace coppice::rocks {

rocksdb::Options store_options();

// Throws what a status that is not ok means; doing: the key or the action. db, where it is open, is asked
// which file is damaged.
void check(const rocksdb::Status& status, const std::string& folder, std::string_view doing, rocksdb::DB* db);

// A file that the status' view names is gone: a writer beside us gave it back.
bool file_is_gone(const rocksdb::Status& status);

rocksdb::Status scan(rocksdb::DB& db, std::string_view prefix,
                     const std::function<bool(std::string_view key, std::string_view value)>& visit);

}  // namespace coppice::rocks
