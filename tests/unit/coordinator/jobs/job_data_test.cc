#include "coordinator/jobs/job_data.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/jobs/expect_error.h"
#include "tests/unit/coordinator/jobs/settled.h"

namespace coppice {
namespace {

using Ids = std::vector<int32_t>;

constexpr int64_t kVocabulary = 4096;

class JobDataTest : public testing::Test {
 protected:
  JobDataTest() {
    std::string rows;
    for (int i = 0; i < 25; ++i) rows += "{\"input_ids\": [" + std::to_string(i) + ", 1]}\n";
    write_settled(path_, rows);
    spec_.data.train = path_;
  }
  JobData read(int64_t most_bytes = INT64_MAX) {
    return read_job_data(spec_, cache_, nullptr, kVocabulary, false, most_bytes);
  }
  JobData split(double share, uint64_t seed = 42) {
    spec_.data.eval_split = share;
    spec_.train.seed = seed;
    return read();
  }
  static Ids firsts(const Dataset& dataset) {
    Ids found;
    for (const Example& example : dataset.examples) found.push_back(example.tokens[0]);
    return found;
  }

  TestFolder folder_;
  std::string path_ = folder_.file("rows.jsonl");
  DatasetCache cache_;
  JobSpec spec_;
};

TEST_F(JobDataTest, ASplitHoldsOutAShareOrANumber) {
  EXPECT_EQ(split(0).eval->examples.size(), 0u);
  EXPECT_EQ(split(0.1).eval->examples.size(), 3u);  // rounded up, as HF datasets does
  EXPECT_EQ(split(5).eval->examples.size(), 5u);
  EXPECT_EQ(split(24).train->examples.size(), 1u);
  expect_error(ErrorCode::kInvalid, path_ + ": data.eval_split holds out 25 of 25 rows", [&] { split(25); });
  expect_error(ErrorCode::kInvalid, path_ + ": data.eval_split holds out 25 of 25 rows",
               [&] { split(0.99); });
}

TEST_F(JobDataTest, EveryRowIsInOneOfTheTwoInOrder) {
  const JobData data = split(7);
  Ids train = firsts(*data.train), eval = firsts(*data.eval);
  EXPECT_TRUE(std::is_sorted(train.begin(), train.end()));
  EXPECT_TRUE(std::is_sorted(eval.begin(), eval.end()));
  train.insert(train.end(), eval.begin(), eval.end());
  std::sort(train.begin(), train.end());
  for (int i = 0; i < 25; ++i) EXPECT_EQ(train.at(size_t(i)), i);
  EXPECT_EQ(data.train->tokens, 36);
  EXPECT_EQ(data.eval->tokens, 14);
  EXPECT_NE(data.train->fingerprint, data.eval->fingerprint);
}

TEST_F(JobDataTest, TheSeedChoosesTheRows) {
  EXPECT_EQ(firsts(*split(5, 1).eval), firsts(*split(5, 1).eval));
  EXPECT_NE(firsts(*split(5, 1).eval), firsts(*split(5, 2).eval));
}

TEST_F(JobDataTest, AnEvaluationFileIsReadInstead) {
  spec_.data.eval = folder_.file("eval.jsonl");
  write_settled(*spec_.data.eval, "{\"input_ids\": [1, 2]}");
  const JobData data = read();
  EXPECT_EQ(data.train->examples.size(), 25u);
  EXPECT_EQ(data.eval->examples.size(), 1u);
}

TEST_F(JobDataTest, JobsOnTheSameFilesShareThem) {
  spec_.data.eval = folder_.file("eval.jsonl");
  write_settled(*spec_.data.eval, "{\"input_ids\": [1, 2]}");
  const JobData first = read();
  spec_.data.shuffle = false;  // nothing of the rows
  spec_.train.seed = 7;
  const JobData second = read();
  EXPECT_EQ(first.train, second.train);
  EXPECT_EQ(first.eval, second.eval);
  EXPECT_NE(first.train->identity, first.eval->identity);

  spec_.data.eval = path_;
  const JobData on_itself = read();
  EXPECT_EQ(on_itself.train, on_itself.eval);
}

TEST_F(JobDataTest, JobsWithTheSameSplitAndSeedShareItsParts) {
  const JobData first = split(7);
  spec_.data.shuffle = false;
  const JobData second = split(7);
  EXPECT_EQ(first.train, second.train);
  EXPECT_EQ(first.eval, second.eval);
  EXPECT_GT(first.train->identity, 0);
  EXPECT_GT(first.eval->identity, 0);
  EXPECT_NE(first.train->identity, first.eval->identity);
  EXPECT_NE(split(7, 1).train, first.train);
  EXPECT_NE(split(8).train, first.train);
  EXPECT_EQ(split(0.27).train, first.train);  // as many rows
}

TEST_F(JobDataTest, PartsThatAreHeldAreNotReadAgain) {
  JobData first = split(7);
  EXPECT_EQ(read(1).train, first.train);
  first.eval.reset();
  expect_error(ErrorCode::kExhausted, path_ + ": its rows up to line 1 take more than", [&] { read(1); });
  EXPECT_EQ(read().train, first.train);
}

TEST_F(JobDataTest, ASplitLeavesWhatOthersShareAsItIs) {
  const JobData whole = read();
  const uint64_t fingerprint = whole.train->fingerprint;
  const JobData parts = split(7);
  EXPECT_NE(parts.train->identity, whole.train->identity);
  EXPECT_EQ(whole.train->examples.size(), 25u);
  for (const Example& example : whole.train->examples) EXPECT_EQ(example.tokens.size(), 2u);
  EXPECT_EQ(whole.train->fingerprint, fingerprint);
  EXPECT_EQ(split(0).train, whole.train);
}

TEST_F(JobDataTest, ASplitCountsItsRowsAlthoughOthersHoldTheFile) {
  const JobData whole = read();
  EXPECT_EQ(read(1).train, whole.train);
  spec_.data.eval_split = 7;
  expect_error(ErrorCode::kExhausted, path_ + ": its rows up to line 1 take more than", [&] { read(1); });
}

}  // namespace
}  // namespace coppice
