// What the RocksDB store does beyond its twin: it lasts, it is held by one, it can be read beside, and it
// says what is wrong.

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>
#include <map>

#include "common/io/files.h"
#include "common/store/kv_store.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/common/store/child_process.h"

namespace coppice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kNotPossible = 77;

void put(KvStore& store, std::string key, std::string value, bool sync = true) {
  Batch batch;
  batch.put(std::move(key), std::move(value));
  store.write(batch, sync);
}

class RocksdbStoreTest : public ::testing::Test {
 protected:
  TestFolder folder_;
  std::string path_ = folder_.file("store");

  std::vector<std::string> files(std::string_view extension) const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      if (entry.path().extension() == extension && entry.file_size() > 0)
        found.push_back(entry.path().string());
    }
    return found;
  }

  // A store with tables, blobs and a log.
  void fill() {
    const auto store = open_rocksdb(path_);
    for (int i = 0; i < 40; ++i) {
      put(*store, fmt::format("small/{}", i), std::string(1000, char('a' + i % 26)), false);
      put(*store, fmt::format("large/{}", i), std::string(9000, char('A' + i % 26)), i == 30);
    }
  }

  // Error of opening, or else of reading everything.
  Error error_of_reading() {
    return error_of(
        [&] { open_rocksdb(path_)->scan("", [](std::string_view, std::string_view) { return true; }); });
  }
};

std::vector<std::string> lines_of(ChildProcess& child) {
  std::vector<std::string> lines;
  while (const auto line = child.line()) lines.push_back(*line);
  return lines;
}

void flip_byte(const std::string& path, int64_t from_end) {
  std::string bytes = read_file(path);
  bytes[bytes.size() - size_t(from_end)] ^= 0x20;
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST_F(RocksdbStoreTest, LastsFromOneOpeningToTheNext) {
  for (int i = 0; i < 5; ++i) {
    const auto store = open_rocksdb(path_ + "/deep/down");
    for (int j = 0; j < i; ++j) EXPECT_EQ(store->get(std::to_string(j)), std::string(100000, char('0' + j)));
    put(*store, std::to_string(i), std::string(100000, char('0' + i)), i % 2 == 0);
  }
}

TEST_F(RocksdbStoreTest, ASecondProcessIsToldWhoHoldsIt) {
  ChildProcess child({STORE_CHILD, "hold", path_});
  ASSERT_EQ(child.line(), "held");
  const Error error = error_of([&] { open_rocksdb(path_); });
  EXPECT_EQ(error.code(), ErrorCode::kBusy);
  EXPECT_EQ(error.what(), fmt::format("{}: is in use by process {}; stop it first, or use another folder",
                                      path_, child.pid()));
  EXPECT_NO_THROW(open_rocksdb_readonly(path_));
  child.end(SIGKILL);
  EXPECT_NO_THROW(open_rocksdb(path_));
}

TEST_F(RocksdbStoreTest, AStoreThatIsNotThereCannotBeRead) {
  EXPECT_EQ(error_of([&] { open_rocksdb_readonly(path_); }).code(), ErrorCode::kNotFound);
  std::filesystem::create_directory(path_);
  const Error error = error_of([&] { open_rocksdb_readonly(path_); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_THAT(error.what(), StartsWith(path_ + ": "));
  EXPECT_TRUE(std::filesystem::is_empty(path_));
}

TEST_F(RocksdbStoreTest, AFolderThatCannotBeMadeIsNamed) {
  std::ofstream(folder_.file("file")) << "text";
  const Error error = error_of([&] { open_rocksdb(folder_.file("file/store")); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalid);
  EXPECT_THAT(error.what(), StartsWith(folder_.file("file/store") + ": "));
}

TEST_F(RocksdbStoreTest, AFolderWithoutPermissionIsNamed) {
  fill();
  ASSERT_EQ(::chmod(folder_.path().c_str(), 0755), 0);
  if (::geteuid() != 0) {
    ASSERT_EQ(::chmod((path_ + "/OWNER").c_str(), 0444), 0);
  }
  ChildProcess child({STORE_CHILD, "unprivileged", path_});
  const auto lines = lines_of(child);
  if (child.end(0) == kNotPossible) GTEST_SKIP() << "the user cannot be changed here";
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], StartsWith(fmt::format("error {} {}", int(ErrorCode::kInvalid), path_)));
}

TEST_F(RocksdbStoreTest, AReaderSeesWhatWasWrittenUntilItOpenedAndAfterARefresh) {
  const auto store = open_rocksdb(path_);
  put(*store, "a", "1", false);
  const auto reader = open_rocksdb_readonly(path_);
  EXPECT_EQ(reader->get("a"), "1");
  put(*store, "a", "2");
  EXPECT_EQ(reader->get("a"), "1");
  reader->refresh();
  EXPECT_EQ(reader->get("a"), "2");
  // Through many flushes and merges: what one batch wrote is seen together, or the reader is told to refresh.
  int seen = 0;
  for (int i = 0; i < 30; ++i) {
    Batch batch;
    for (const char* key : {"x", "y"}) batch.put(key, std::string(50000, char('a' + i % 26)));
    store->write(batch, true);
    if (i % 4 == 0) reader->refresh();
    try {
      const std::string x = reader->get("x").value(), y = reader->get("y").value();
      EXPECT_TRUE(x == y) << x[0] << y[0];
      EXPECT_EQ(x[0], char('a' + i / 4 * 4 % 26));
      ++seen;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBusy) << error.what();
    }
  }
  EXPECT_GE(seen, 8);  // each refresh at least
}

TEST_F(RocksdbStoreTest, AReaderLeavesNothingBehindAndChangesNothing) {
  fill();
  const auto contents = [&] {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path())) {
      if (entry.is_regular_file()) files[entry.path().string()] = read_file(entry.path().string());
    }
    return files;
  };
  const auto before = contents();
  {
    const auto reader = open_rocksdb_readonly(path_);
    EXPECT_EQ(reader->get("small/0"), std::string(1000, 'a'));
    EXPECT_TRUE(contents() == before);
    reader->refresh();
  }
  EXPECT_TRUE(contents() == before);
}

TEST_F(RocksdbStoreTest, AReaderSaysWhatIsDamaged) {
  fill();
  const std::string table = files(".sst").at(0);
  flip_byte(table, 1);
  const Error error = error_of([&] {
    open_rocksdb_readonly(path_)->scan("", [](std::string_view, std::string_view) { return true; });
  });
  EXPECT_EQ(error.code(), ErrorCode::kInvalid) << error.what();
  EXPECT_THAT(error.what(), HasSubstr(std::filesystem::path(table).filename().string()));
}

TEST_F(RocksdbStoreTest, ADamagedTableIsNamed) {
  fill();
  const std::string table = files(".sst").at(0);
  flip_byte(table, int64_t(std::filesystem::file_size(table)) - 100);
  const Error error = error_of_reading();
  EXPECT_EQ(error.code(), ErrorCode::kInvalid) << error.what();
  EXPECT_THAT(error.what(),
              AllOf(HasSubstr("damaged"), HasSubstr(std::filesystem::path(table).filename().string())));
}

TEST_F(RocksdbStoreTest, ADamagedBlobIsNamed) {
  fill();
  const std::string blob = files(".blob").at(0);
  flip_byte(blob, int64_t(std::filesystem::file_size(blob)) - 5000);
  const Error error = error_of_reading();
  EXPECT_EQ(error.code(), ErrorCode::kInvalid) << error.what();
  EXPECT_THAT(error.what(),
              AllOf(HasSubstr("damaged"), HasSubstr(std::filesystem::path(blob).filename().string())));
}

TEST_F(RocksdbStoreTest, ALogThatIsRottenInTheMiddleIsRefused) {
  {
    const auto store = open_rocksdb(path_);
    for (int i = 0; i < 10; ++i) put(*store, std::to_string(i), std::string(5000, 'v'), false);
  }
  const std::string log = files(".log").at(0);
  flip_byte(log, int64_t(std::filesystem::file_size(log)) - 12000);
  const Error error = error_of_reading();
  EXPECT_EQ(error.code(), ErrorCode::kInvalid) << error.what();
  EXPECT_THAT(error.what(), StartsWith(path_ + ": the store is damaged"));
}

TEST_F(RocksdbStoreTest, ALogThatWasCutLosesOnlyItsLastWrite) {
  {
    const auto store = open_rocksdb(path_);
    for (int i = 0; i < 10; ++i) put(*store, std::to_string(i), std::string(5000, 'v'), false);
  }
  const std::string log = files(".log").at(0);
  std::filesystem::resize_file(log, std::filesystem::file_size(log) - 100);
  const auto store = open_rocksdb(path_);
  EXPECT_EQ(store->get("8"), std::string(5000, 'v'));
  EXPECT_EQ(store->get("9"), std::nullopt);
}

TEST_F(RocksdbStoreTest, AFileThatIsMissingIsRefusedNotMadeAnew) {
  for (const char* extension : {".sst", ".blob"}) {
    std::filesystem::remove_all(path_);
    fill();
    const std::string gone = files(extension).at(0);
    std::filesystem::remove(gone);
    const Error error = error_of_reading();
    EXPECT_EQ(error.code(), ErrorCode::kInvalid) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(std::filesystem::path(gone).stem().string()));
  }
  std::filesystem::remove_all(path_);
  fill();
  std::filesystem::remove(path_ + "/CURRENT");
  const Error error = error_of_reading();
  EXPECT_EQ(error.code(), ErrorCode::kInvalid);
  EXPECT_THAT(error.what(), StartsWith(path_ + "/CURRENT: is missing"));
}

// A child writes until its disk is full: the error says so, and what was acknowledged before is there.
void expect_exhausted(const std::vector<std::string>& lines) {
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[0], AllOf(StartsWith(fmt::format("error {} ", int(ErrorCode::kExhausted))),
                              HasSubstr("the disk is full")));
  const int acknowledged = std::stoi(lines[1].substr(std::string("acknowledged ").size()));
  const int read = std::stoi(lines[2].substr(std::string("read ").size()));
  EXPECT_GT(acknowledged, 0);
  EXPECT_GE(read, acknowledged);
}

TEST_F(RocksdbStoreTest, AFullDiskIsSaidAndLosesNothing) {
  ChildProcess child({STORE_CHILD, "full", folder_.path()});
  const auto lines = lines_of(child);
  if (child.end(0) == kNotPossible) GTEST_SKIP() << "a small file system cannot be mounted here";
  expect_exhausted(lines);
}

TEST_F(RocksdbStoreTest, ALimitOnTheSizeOfFilesIsAFullDisk) {
  ChildProcess child({STORE_CHILD, "limited", folder_.path()});
  const auto lines = lines_of(child);
  if (child.end(0) == kNotPossible) GTEST_SKIP() << "the size of files cannot be limited here";
  expect_exhausted(lines);
}

}  // namespace
}  // namespace coppice
