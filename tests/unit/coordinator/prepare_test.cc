#include "coordinator/prepare.h"

#include <gtest/gtest.h>

#include "coordinator/jobs/job_file.h"
#include "tests/unit/coordinator/jobs/settled.h"
#include "tests/unit/worker/tiny_backbone.h"

namespace coppice {
namespace {

class PrepareTest : public testing::Test {
 protected:
  PrepareTest() {
    std::string rows;
    for (int i = 0; i < kRows; ++i) rows += "{\"input_ids\": [1, 2, 3, 4]}\n";
    write_settled(folder_.file("rows.jsonl"), rows);
  }
  JobSpec spec(const std::string& name, const Json& data = Json::object()) const {
    Json job = {{"name", name},
                {"method", {{"peft_type", "LORA"}, {"r", 2}, {"target_modules", "all-linear"}}},
                {"data", {{"train", folder_.file("rows.jsonl")}}},
                {"train", {{"max_steps", 1}}}};
    job["data"].update(data);
    const Json file = {{"backbone", tiny_.folder()}, {"jobs", {job}}};
    return parse_job_file(file, "test", "/").jobs.at(0);
  }

  static constexpr int kRows = 100'000;  // some 14 MiB
  TinyBackbone tiny_;
  TestFolder folder_;
  Backbone backbone_ = read_backbone(tiny_.folder());
};

TEST_F(PrepareTest, WhatJobsShareIsHeldOnce) {
  Preparation preparation(backbone_, 0);  // 64 MiB, of which it holds half
  std::vector<std::unique_ptr<PreparedJob>> jobs;
  for (int i = 0; i < 5; ++i) jobs.push_back(preparation.prepare(spec("job" + std::to_string(i))));
  for (const auto& job : jobs) {
    EXPECT_TRUE(job->loaded()) << job->spec.name;
    EXPECT_EQ(job->data.train, jobs[0]->data.train);
  }
  // Their own copies are not: the second is beyond the half.
  EXPECT_TRUE(preparation.prepare(spec("own", {{"eval_split", 1}}))->loaded());
  EXPECT_FALSE(preparation.prepare(spec("beyond", {{"eval_split", 1}}))->loaded());
}

TEST_F(PrepareTest, AJobThatLetsGoOfItsDataKnowsWhatItWas) {
  const auto job = prepare_job(spec("job", {{"eval_split", 1}}), backbone_);
  const auto other = prepare_job(spec("other", {{"eval_split", 1}}), backbone_);
  other->unload();
  EXPECT_FALSE(other->loaded());
  EXPECT_TRUE(other->data.train->examples.empty());
  EXPECT_EQ(other->data.train->tokens, 4 * (kRows - 1));
  EXPECT_EQ(other->data.eval->tokens, 4);
  EXPECT_EQ(other->data_fingerprint(), job->data_fingerprint());
  EXPECT_EQ(other->memory.data, job->memory.data);
}

TEST_F(PrepareTest, AJobThatLetsGoLeavesWhatOthersShare) {
  const auto job = prepare_job(spec("job"), backbone_);
  const auto other = prepare_job(spec("other"), backbone_);
  const uint64_t fingerprint = job->data_fingerprint();
  job->unload();
  EXPECT_EQ(other->data.train->examples.size(), size_t(kRows));
  EXPECT_EQ(other->data_fingerprint(), fingerprint);
  EXPECT_EQ(prepare_job(spec("job"), backbone_)->data.train, other->data.train);
}

}  // namespace
}  // namespace coppice
