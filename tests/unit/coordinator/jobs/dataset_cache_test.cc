#include "coordinator/jobs/dataset_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <set>

#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/jobs/expect_error.h"
#include "tests/unit/coordinator/jobs/settled.h"

namespace coppice {
namespace {

using Shared = std::shared_ptr<const Dataset>;

class DatasetCacheTest : public testing::Test {
 protected:
  DatasetCacheTest() { write_settled(path_, "{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [5, 6]}\n"); }
  Shared read(int64_t most_bytes = INT64_MAX) { return read(path_, most_bytes); }
  Shared read(const std::string& path, int64_t most_bytes = INT64_MAX) {
    return cache_.read(path, data_, nullptr, vocabulary_, virtual_rows_, most_bytes);
  }

  TestFolder folder_;
  std::string path_ = folder_.file("rows.jsonl");
  DataArguments data_;
  int64_t vocabulary_ = 100;
  bool virtual_rows_ = false;
  std::atomic<int> reads_ = 0;
  std::function<void()> while_read_ = [] {};  // before the first row
  DatasetCache cache_{[this](const auto&... arguments) {
    ++reads_;
    while_read_();
    return read_dataset(arguments...);
  }};
};

TEST_F(DatasetCacheTest, TheSameFileIsOneDataset) {
  const Shared first = read();
  EXPECT_EQ(first->tokens, 6);
  EXPECT_GT(first->identity, 0);
  data_.shuffle = false;  // what is done with the rows is not in them
  data_.eval_split = 0.5;
  data_.train = "elsewhere";
  EXPECT_EQ(read(), first);
  EXPECT_EQ(reads_, 1);
}

TEST_F(DatasetCacheTest, OtherKeysGiveOtherRows) {
  const Shared whole = read();
  data_.max_length = 3;
  expect_error(ErrorCode::kInvalid, path_ + ":1: 4 tokens, but data.max_length is 3", [&] { read(); });
  data_.on_long = OnLong::kTruncate;
  const Shared cut = read();
  EXPECT_EQ(cut->tokens, 5);
  data_.on_long = OnLong::kDrop;
  const Shared left = read();
  EXPECT_EQ(left->tokens, 2);
  EXPECT_EQ(read(), left);
  data_ = {};
  EXPECT_EQ(read(), whole);
  const std::set<int64_t> identities = {whole->identity, cut->identity, left->identity};
  EXPECT_EQ(identities.size(), 3u);
}

TEST_F(DatasetCacheTest, WhatIsHeldIsNoExcuseForWhatWouldBeRefused) {
  write_settled(path_, "{\"input_ids\": [50]}\n");
  virtual_rows_ = true;
  const Shared held = read();
  EXPECT_EQ(held->tokens, 1);
  virtual_rows_ = false;
  expect_error(ErrorCode::kInvalid, path_ + ":1: no token of the row is a target", [&] { read(); });
  virtual_rows_ = true;
  vocabulary_ = 50;
  expect_error(ErrorCode::kInvalid, "[0] is 50; a token id below 50", [&] { read(); });
  vocabulary_ = 100;
  data_.prompt_template = "{instruction}";
  expect_error(ErrorCode::kInvalid, ":1: the row has no \"instruction\"", [&] { read(); });
}

TEST_F(DatasetCacheTest, AChangedFileIsReadAnew) {
  const Shared before = read();
  write_settled(path_, "{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [5, 7]}\n");  // of the same size
  const Shared after = read();
  EXPECT_EQ(after->examples[1].tokens[1], 7);
  EXPECT_EQ(before->examples[1].tokens[1], 6);
  EXPECT_NE(after->identity, before->identity);
  EXPECT_EQ(read(), after);
}

TEST_F(DatasetCacheTest, AFileThatIsGivenItsOldTimeAgainIsReadAnew) {
  const auto time = std::filesystem::last_write_time(path_);
  const Shared before = read();
  write_settled(path_, "{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [5, 7]}\n");
  std::filesystem::last_write_time(path_, time);
  EXPECT_NE(read(), before);
}

// A link that is turned elsewhere and back: what the file was then is not what it is now.
TEST_F(DatasetCacheTest, AFileThatChangesWhileItIsReadIsNotRemembered) {
  const std::string other = folder_.file("other.jsonl"), link = folder_.file("link.jsonl");
  write_settled(other, "{\"input_ids\": [7, 8]}\n");
  const auto turn_to = [&](const std::string& path) {
    std::filesystem::remove(link);
    std::filesystem::create_symlink(path, link);
  };
  turn_to(path_);
  while_read_ = [&] { turn_to(other); };
  const Shared turned = read(link);
  EXPECT_EQ(turned->tokens, 2);
  while_read_ = [] {};
  turn_to(path_);
  EXPECT_EQ(read(link)->tokens, 6);
  EXPECT_EQ(reads_, 2);
}

// Faster than the clock that gives files their times.
TEST_F(DatasetCacheTest, AFileThatIsWrittenOverAndOverIsReadEachTime) {
  std::vector<Shared> held;
  for (int i = 10; i < 100; ++i) {
    std::ofstream(path_) << "{\"input_ids\": [1, " << i << "]}\n";
    held.push_back(read());
    ASSERT_EQ(held.back()->examples[0].tokens[1], i);
  }
}

TEST_F(DatasetCacheTest, FilesOfTheSameRowsShareThem) {
  const Shared first = read();
  std::filesystem::last_write_time(path_, std::filesystem::file_time_type::clock::now());
  EXPECT_EQ(read(), first);
  const std::string other = folder_.file("other.jsonl");
  write_settled(other, "\n{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [5, 6]}");
  EXPECT_EQ(read(other), first);
  write_settled(other, "{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [5, 6]}");
  data_.max_length = 1000;  // without effect
  EXPECT_EQ(read(), first);
  EXPECT_NE(read(other), first);
}

// Else a job would be told of rows that another left out.
TEST_F(DatasetCacheTest, RowsThatWereLeftOutBelongToADataset) {
  const std::string other = folder_.file("other.jsonl");
  write_settled(other,
                "{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [1, 2, 3, 4, 5]}\n{\"input_ids\": [5, 6]}");
  data_.max_length = 4;
  data_.on_long = OnLong::kDrop;
  const Shared all = read(), left = read(other);
  EXPECT_EQ(all->fingerprint, left->fingerprint);
  EXPECT_EQ(all->dropped, 0);
  EXPECT_EQ(left->dropped, 1);
}

TEST_F(DatasetCacheTest, WhatNobodyHoldsIsReadAgain) {
  Shared first = read();
  const int64_t identity = first->identity;
  const std::weak_ptr<const Dataset> gone = first;
  first.reset();
  EXPECT_TRUE(gone.expired());
  EXPECT_GT(read()->identity, identity);
}

TEST_F(DatasetCacheTest, WhatIsInMemoryCostsNothingMore) {
  expect_error(ErrorCode::kExhausted, path_ + ": its rows up to line 1 take more than", [&] { read(1); });
  const Shared held = read();
  EXPECT_EQ(read(1), held);
}

TEST_F(DatasetCacheTest, AFileThatIsNotThereIsRefusedAsEver) {
  expect_error(ErrorCode::kNotFound, folder_.file("none"), [&] { read(folder_.file("none")); });
  expect_error(ErrorCode::kInvalid, folder_.path(), [&] { read(folder_.path()); });
}

class ThreadsTest : public DatasetCacheTest {
 protected:
  // The first to read does so when the others have had time to come.
  ThreadsTest() {
    while_read_ = [this] { std::this_thread::sleep_for(std::chrono::milliseconds(50)); };
  }
  // On a thread each.
  std::vector<Shared> read_together(const std::vector<int64_t>& most_bytes) {
    std::vector<Shared> got(most_bytes.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < got.size(); ++i) {
      threads.emplace_back([&, i] {
        try {
          got[i] = read(most_bytes[i]);
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::kExhausted) << error.what();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return got;
  }
};

TEST_F(ThreadsTest, OneReadsForAll) {
  const std::vector<Shared> got = read_together({INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX});
  ASSERT_NE(got[0], nullptr);
  for (const Shared& dataset : got) EXPECT_EQ(dataset, got[0]);
  EXPECT_EQ(reads_, 1);
}

// Who may hold next to nothing meets that alone, or takes what another has read meanwhile.
TEST_F(ThreadsTest, AnErrorIsHandedToNobody) {
  for (int round = 0; round < 20; ++round) {
    const std::vector<Shared> got = read_together({1, INT64_MAX, 1, INT64_MAX});
    ASSERT_NE(got[1], nullptr);
    EXPECT_EQ(got[3], got[1]);
    for (const size_t i : {0, 2}) EXPECT_TRUE(got[i] == nullptr || got[i] == got[1]);
  }
}

// All may be at it at once.
TEST_F(ThreadsTest, FilesThatDifferAreReadBesideEachOther) {
  std::atomic<int> inside = 0;
  while_read_ = [&] {
    ++inside;
    while (inside < 2) std::this_thread::yield();
  };
  const std::string other = folder_.file("other.jsonl");
  write_settled(other, "{\"input_ids\": [7, 8]}\n");
  Shared first, second;
  std::thread thread([&] { first = read(); });
  second = read(other);
  thread.join();
  EXPECT_NE(first, second);
}

}  // namespace
}  // namespace coppice
