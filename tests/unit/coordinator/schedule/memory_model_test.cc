#include "coordinator/schedule/memory_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"
#include "kernels/registry.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMebibyte = 1 << 20;

class MemoryModelTest : public ::testing::Test {
 protected:
  MemoryModelTest() {
    BackboneConfig& config = model_.config;
    config.hidden = 256;
    config.intermediate = 704;
    config.layers = 8;
    config.heads = 8;
    config.kv_heads = 4;
    config.head_dim = 32;
    config.vocabulary = 4096;
    model_.weight_bytes = weight_bytes({0, 8});
    model_.pack_rows = 2048;
    model_.stages = {{0, 8}};
    model_.limit_bytes = 1024 * kMebibyte;
    method_ = configure_method(Json{{"peft_type", "LORA"}, {"r", 8}, {"target_modules", "all-linear"}},
                               config, "method");
    job_ = {method_.get(), own(kMebibyte), 2048, 2048, 0, false};
  }
  static DataParts own(int64_t bytes) { return {DataPart{0, bytes}}; }
  static DataParts shared(int64_t dataset, int64_t bytes) { return {DataPart{dataset, bytes}}; }
  int64_t weight_bytes(const LayerRange& stage) const {
    return frozen_weight_bytes(*device_, model_.config, stage, DType::kF32, DType::kF32);
  }
  FitAnswer fit(const JobMemory& job, int others = 0) const {
    return model_.fit("tone", job, std::vector<JobMemory>(size_t(others), job_));
  }
  int64_t total(int jobs) const { return model_.total_bytes(std::vector<JobMemory>(size_t(jobs), job_)); }

  ThreadPool pool_{1};
  std::unique_ptr<Backend> device_ = make_backend("ref", pool_);
  MemoryModel model_;
  std::unique_ptr<MethodConfig> method_;
  JobMemory job_;
};

TEST_F(MemoryModelTest, AJobThatFitsIsAdmitted) {
  EXPECT_EQ(fit(job_).fit, Fit::kNow);
  EXPECT_EQ(fit(job_).message, "");
  EXPECT_EQ(fit(job_, 8).fit, Fit::kNow);
}

TEST_F(MemoryModelTest, AJobThatFitsAloneWaitsForOthers) {
  model_.limit_bytes = total(5);
  EXPECT_EQ(fit(job_, 4).fit, Fit::kNow);
  const FitAnswer answer = fit(job_, 5);
  EXPECT_EQ(answer.fit, Fit::kLater);
  EXPECT_THAT(answer.message, HasSubstr("job tone does not fit beside 5 other jobs"));
  EXPECT_THAT(answer.message, HasSubstr(fmt::format("{:.0f} MiB are there", double(total(5)) / kMebibyte)));
}

TEST_F(MemoryModelTest, AJobThatCannotFitIsRefusedWithTheNumbers) {
  model_.limit_bytes = 100 * kMebibyte;
  for (const int others : {0, 3}) {
    const FitAnswer answer = fit(job_, others);
    EXPECT_EQ(answer.fit, Fit::kNever);
    EXPECT_THAT(answer.message, HasSubstr("job tone does not fit: it needs "));
    EXPECT_THAT(answer.message, HasSubstr("packs of 2048 rows"));
    EXPECT_THAT(answer.message, HasSubstr("100 MiB are there;"));
  }
}

TEST_F(MemoryModelTest, TheDataOfJobsCounts) {
  JobMemory large = job_;
  large.data = own(1024 * kMebibyte);
  EXPECT_EQ(fit(large).fit, Fit::kNever);
  model_.coordinator = false;
  EXPECT_EQ(fit(large).fit, Fit::kNow);
}

TEST_F(MemoryModelTest, ADatasetThatSeveralShareCountsOnce) {
  const auto bytes = [&](const std::vector<DataParts>& data) {
    std::vector<JobMemory> jobs(data.size(), job_), without(data.size(), job_);
    for (size_t i = 0; i < data.size(); ++i) {
      jobs[i].data = data[i];
      without[i].data = {};
    }
    return model_.total_bytes(jobs) - model_.total_bytes(without);
  };
  EXPECT_EQ(bytes({own(100), own(100)}), 200);
  EXPECT_EQ(bytes({shared(1, 100), shared(2, 100)}), 200);
  EXPECT_EQ(bytes({shared(1, 100), shared(2, 50), shared(1, 100)}), 150);
  EXPECT_EQ(bytes({shared(1, 100)}), 100);  // when the other has left
  const DataParts both = {DataPart{0, 8}, {1, 100}, {2, 50}};
  EXPECT_EQ(bytes({both, both, shared(2, 50)}), 166);
  model_.coordinator = false;
  EXPECT_EQ(bytes({both, both}), 0);
}

TEST_F(MemoryModelTest, JobsOfOneFileFitWhereACopyForEachWouldNot) {
  JobMemory wanted = job_;
  wanted.data = shared(1, 100 * kMebibyte);
  std::vector<JobMemory> others(63, wanted);
  model_.limit_bytes = total(64) + 100 * kMebibyte;
  EXPECT_EQ(model_.fit("tone", wanted, others).fit, Fit::kNow);
  EXPECT_EQ(model_.jobs_bytes(others), 63 * model_.job_bytes(job_) + 37 * kMebibyte);
  wanted.data = shared(2, 100 * kMebibyte);
  EXPECT_EQ(model_.fit("tone", wanted, others).fit, Fit::kLater);
  for (JobMemory& other : others) other.data = own(100 * kMebibyte);
  EXPECT_EQ(model_.fit("tone", wanted, others).fit, Fit::kLater);
}

TEST_F(MemoryModelTest, AMicroBatchLargerThanAPackCounts) {
  JobMemory large = job_;
  large.micro_batch_rows = large.step_rows = 100000;
  EXPECT_EQ(fit(large).fit, Fit::kNever);
  EXPECT_THAT(fit(large).message, HasSubstr("packs of 100000 rows"));
}

TEST_F(MemoryModelTest, CheckpointingKeepsLessUntilAJobDoesWithout) {
  JobMemory checkpointed = job_;
  checkpointed.checkpointing = true;
  const std::vector<JobMemory> alone = {checkpointed}, both = {checkpointed, job_};
  EXPECT_LT(model_.total_bytes(alone), total(1));
  EXPECT_EQ(model_.total_bytes(both), total(2));
}

TEST_F(MemoryModelTest, APackHasNoMoreRowsThanTheJobsHaveReady) {
  JobMemory small = job_;
  small.micro_batch_rows = small.step_rows = 500;
  const std::vector<JobMemory> one = {small}, three(3, small), six(6, small);
  EXPECT_EQ(model_.largest_pack_rows(one), 500);
  EXPECT_EQ(model_.largest_pack_rows(three), 1500);
  EXPECT_EQ(model_.largest_pack_rows(six), 2000);  // micro-batches are not cut
  EXPECT_LT(model_.packs_bytes(one), model_.packs_bytes(three) / 2);
  EXPECT_LT(model_.packs_bytes(three), model_.packs_bytes(six));
}

TEST_F(MemoryModelTest, AnEvaluationKeepsNothingForABackward) {
  JobMemory trains = job_, evaluates = job_;
  trains.step_rows = 2048;
  evaluates.micro_batch_rows = evaluates.step_rows = 100;
  evaluates.evaluation_rows = 2048;
  const std::vector<JobMemory> one = {trains}, other = {evaluates};
  EXPECT_EQ(model_.largest_pack_rows(other), 2000);
  EXPECT_LT(model_.packs_bytes(other), model_.packs_bytes(one) / 2);
}

TEST_F(MemoryModelTest, WhatAMethodKeepsCounts) {
  const auto wide = configure_method(Json{{"peft_type", "LORA"}, {"r", 64}, {"target_modules", "all-linear"}},
                                     model_.config, "method");
  const std::vector<JobMemory> narrow = {job_}, more = {{wide.get(), own(kMebibyte), 2048, 2048, 0, false}};
  const int64_t columns = 8 * 7 * (64 - 8);
  const int64_t bytes = 2048 * columns * int64_t(sizeof(float));
  EXPECT_GE(model_.packs_bytes(more) - model_.packs_bytes(narrow), bytes);
  EXPECT_LE(model_.packs_bytes(more) - model_.packs_bytes(narrow), bytes + bytes / 20);
}

// Beyond those that are together, a job more is its own memory and half of what its commit writes.
TEST_F(MemoryModelTest, WhatPassesIsOfTheJobsThatAreTogether) {
  const int64_t parameters = int64_t(sizeof(float)) * method_->trainable_parameters();
  constexpr int64_t kState = 3;  // copies
  JobMemory small = job_;
  small.micro_batch_rows = small.step_rows = 1024;
  const auto more = [&](int jobs) {
    return model_.total_bytes(std::vector<JobMemory>(size_t(jobs), small)) -
           model_.total_bytes(std::vector<JobMemory>(size_t(jobs - 1), small)) - model_.job_bytes(small);
  };
  EXPECT_EQ(more(3), kState * parameters / 2);
  EXPECT_EQ(more(10), kState * parameters / 2);
  EXPECT_EQ(more(60), 0);  // the store writes its buffers out
}

TEST_F(MemoryModelTest, AllStagesButTheLastKeepEveryPackInFlight) {
  const std::vector<JobMemory> jobs(8, job_);
  model_.in_turn = false;
  model_.stages = {{0, 4}};
  const int64_t one = model_.packs_bytes(jobs);
  model_.packs = 3;
  EXPECT_GT(model_.packs_bytes(jobs), 2 * one);
  model_.stages = {{4, 8}};
  EXPECT_LT(model_.packs_bytes(jobs), one + one / 2);
}

TEST_F(MemoryModelTest, Bfloat16KeepsWhatProductsReadRounded) {
  const std::vector<JobMemory> one = {job_};
  const int64_t floats = model_.packs_bytes(one);
  model_.compute = DType::kBF16;
  // Two bytes less of gate and up, of q, k and v and of attention's output in each of eight blocks; in one of
  // them of its input, the gated product and that one's gradient besides; and the holes that those would
  // leave.
  const int64_t kept = 2048 * 8 * (2 * 704 + 2 * 256 + 2 * 128) * 2, working = 2048 * (256 + 2 * 704) * 2;
  EXPECT_NEAR(double(floats - model_.packs_bytes(one)), double(kept + working) * 26 / 25, 2);
}

// A gradient that a method changes is in float32 until it has.
TEST_F(MemoryModelTest, Bfloat16RoundsGradientsThatAreDone) {
  model_.compute = DType::kBF16;
  const auto packs_bytes = [&](const Json& method) {
    const auto config = configure_method(method, model_.config, "method");
    return model_.packs_bytes(std::vector<JobMemory>{{config.get(), own(kMebibyte), 2048, 2048, 0, false}});
  };
  Json lora{{"peft_type", "LORA"}, {"r", 8}, {"target_modules", Json::array({"down_proj"})}};
  constexpr double kRows = 2048.0 * 704 * 4 * 26 / 25;  // of the product's width in float32, with holes
  const int64_t rounded = packs_bytes(lora);
  lora["lora_dropout"] = 0.1;
  EXPECT_NEAR(double(packs_bytes(lora) - rounded), 2 * kRows, 2);  // and what is dropped
  model_.compute = DType::kF32;
  const int64_t dropped = packs_bytes(lora);
  lora["lora_dropout"] = 0;
  EXPECT_NEAR(double(dropped - packs_bytes(lora)), kRows, 2);
  model_.compute = DType::kBF16;
  lora["lora_dropout"] = 0.1;
  lora["target_modules"] = Json::array({"gate_proj"});
  EXPECT_EQ(packs_bytes(lora), rounded);
  const auto ia3 = [](const char* module) {
    return Json{{"peft_type", "IA3"},
                {"target_modules", Json::array({module})},
                {"feedforward_modules", Json::array({module})}};
  };
  const int64_t plain = packs_bytes(ia3("k_proj"));
  EXPECT_NEAR(double(packs_bytes(ia3("down_proj")) - plain), kRows, 2);
}

TEST_F(MemoryModelTest, HostsShareWhatARunTakes) {
  MemoryModel first = model_, second = model_;
  first.host = "oak";
  first.stages = {{0, 5}};
  first.weight_bytes = weight_bytes({0, 5});
  second.host = "ash";
  second.stages = {{5, 8}};
  second.weight_bytes = weight_bytes({5, 8});
  EXPECT_EQ(first.weight_bytes + second.weight_bytes, model_.weight_bytes);
  second.coordinator = false;
  second.parameter_share = 0;
  second.stores = 0;
  EXPECT_LT(second.job_bytes(job_), first.job_bytes(job_) / 2);
  const std::vector<JobMemory> one = {job_};
  EXPECT_LT(first.total_bytes(one), total(1));
  EXPECT_LT(second.total_bytes(one), total(1));

  std::vector<MemoryModel> hosts = {first, second};
  EXPECT_EQ(fit_on_hosts(hosts, "tone", job_, {}).fit, Fit::kNow);
  hosts[0].limit_bytes = first.total_bytes(one);
  EXPECT_EQ(fit_on_hosts(hosts, "tone", job_, {}).fit, Fit::kNow);
  EXPECT_EQ(fit_on_hosts(hosts, "tone", job_, one).fit, Fit::kLater);
  EXPECT_THAT(fit_on_hosts(hosts, "tone", job_, one).message, HasSubstr("are there on host oak"));
  hosts[1].limit_bytes = kMebibyte;
  const FitAnswer answer = fit_on_hosts(hosts, "tone", job_, one);
  EXPECT_EQ(answer.fit, Fit::kNever);
  EXPECT_THAT(answer.message, HasSubstr("1 MiB are there on host ash"));
}

// A stage of each of two pipelines on one host: rows of both, but a job is on one of them.
TEST_F(MemoryModelTest, PipelinesOnAHostAddTheirRowsNotTheirAdapters) {
  const std::vector<JobMemory> one = {job_};
  const int64_t packs = model_.packs_bytes(one), job = model_.job_bytes(job_);
  model_.stages = {{0, 8}, {0, 8}};
  model_.in_turn = false;
  EXPECT_EQ(model_.packs_bytes(one), 2 * packs);
  model_.in_turn = true;  // only one works at a time
  EXPECT_LT(model_.packs_bytes(one), 2 * packs);
  EXPECT_EQ(model_.job_bytes(job_), job);
}

TEST_F(MemoryModelTest, AStoreTakesWhatItWritesUpToItsBuffers) {
  const int64_t empty = model_.store_bytes(0);
  EXPECT_GT(empty, 0);
  EXPECT_EQ(model_.store_bytes(10 * kMebibyte), empty + 10 * kMebibyte);
  EXPECT_EQ(model_.store_bytes(1000 * kMebibyte), model_.store_bytes(10000 * kMebibyte));
  model_.stores = 3;
  EXPECT_EQ(model_.store_bytes(0), 3 * empty);
}

TEST(DataBytesTest, CountsExamplesAndTheirTokens) {
  Dataset train, eval;
  for (int i = 0; i < 100; ++i) {
    train.examples.push_back({std::vector<int32_t>(50, 1), std::vector<int32_t>(50, 1)});
  }
  train.identity = 7;
  eval.examples = {{std::vector<int32_t>(1000, 1), std::vector<int32_t>(1000, 1)}};
  JobData data{std::make_shared<Dataset>(train), std::make_shared<Dataset>(eval)};
  const int64_t values = 101 * int64_t(sizeof(Example)) + 2 * 4 * (100 * 50 + 1000);
  const DataParts parts = parts_of(data);
  EXPECT_GE(data_bytes(parts), values);
  EXPECT_LE(data_bytes(parts), 2 * values);
  EXPECT_EQ(parts[0], (DataPart{0, 101 * int64_t(sizeof(int64_t))}));
  EXPECT_EQ(parts[1], (DataPart{7, data.train->bytes()}));
  EXPECT_EQ(parts[2], (DataPart{0, data.eval->bytes()}));
  EXPECT_EQ(data_bytes(parts_of({})), 0);
  data.eval = data.train;
  EXPECT_EQ(parts_of(data)[2], DataPart{});
}

TEST(AvailableMemoryTest, IsThere) {
  EXPECT_GT(available_memory_bytes(), 64 * kMebibyte);
}

}  // namespace
}  // namespace coppice
