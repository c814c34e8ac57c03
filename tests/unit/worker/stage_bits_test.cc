// The promise of isolation, on a stage: whatever travels with a job, however the backbone is split and
// whatever is kept or computed again, the job's losses and gradients have the same bits.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "tests/unit/worker/every_hook.h"
#include "tests/unit/worker/stage_run.h"

namespace coppice {
namespace {

class StageBitsTest : public testing::TestWithParam<std::string> {
 protected:
  StageBitsTest() {
    const BackboneConfig& config = backbone.config();
    jobs.push_back(make_job("lora", R"({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "lora_dropout": 0.2,
                                        "target_modules": "all-linear"})",
                            config));
    jobs.push_back(make_job("upper",
                            R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "layers_to_transform": [2, 3],
                                         "target_modules": ["q_proj", "down_proj"]})",
                            config));
    jobs.push_back(make_job(
        "head", R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["lm_head"]})", config));
    jobs.push_back(make_job("table", R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2,
                                         "target_modules": ["embed_tokens", "k_proj"]})",
                            config));
    jobs.push_back(make_job("ia3",
                            R"({"peft_type": "IA3", "target_modules": ["k_proj", "up_proj", "down_proj"],
                                       "feedforward_modules": ["up_proj", "down_proj"]})",
                            config));
    jobs.push_back(make_job("prefix", R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3})", config));
    jobs.push_back(make_job("prompt", R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4})", config));
    jobs.push_back(make_job("bottleneck", R"({"peft_type": "BOTTLENECK", "bottleneck_size": 3})", config));
    jobs.push_back(make_job("every", every_hook_config(config)));
    jobs.push_back(make_job("every above", every_hook_config(config, 1)));
    jobs.push_back(jobs.front());
    jobs.back().name = "evaluation";
    jobs.back().training = false;
    jobs.push_back({"bare", nullptr, {}, false, {4}, -2});
    jobs[0].lengths = {150, 1};  // several pieces at the head
    jobs[2].lengths = {9};
    jobs[8].lengths = {2, 3, 2};
  }

  RunOptions options() const { return {.backend = GetParam()}; }
  // Two micro-batches of every job, in two packs.
  std::vector<std::vector<MicroBatch>> everybody() const {
    std::vector<std::vector<MicroBatch>> packs(2);
    for (int64_t number : {0, 1})
      for (const TestJob& job : jobs) packs[size_t(number)].push_back({&job, number});
    return packs;
  }
  static void expect_same(const Results& results, const Results& expected) {
    ASSERT_EQ(results.size(), expected.size());
    for (const auto& [job, result] : results)
      EXPECT_TRUE(same_bits(result, expected.at(job))) << "job " << job;
  }

  TinyBackbone backbone;
  std::vector<TestJob> jobs;
};

TEST_P(StageBitsTest, GradientsAndLossesAreNotZero) {
  for (const auto& [job, result] : run_packs(backbone, options(), everybody())) {
    EXPECT_GT(result.losses.at(0), 0) << job;
    for (const auto& [name, gradient] : result.gradients) {
      double norm = 0;
      for (float value : gradient) norm += double(value) * value;
      EXPECT_GT(norm, 0) << job << " " << name;
    }
  }
}

TEST_P(StageBitsTest, JobAloneHasTheBitsItHasInCompany) {
  const Results together = run_packs(backbone, options(), everybody());
  for (const TestJob& job : jobs) {
    const Results alone = run_packs(backbone, options(), {{{&job, 0}}, {{&job, 1}}});
    EXPECT_TRUE(same_bits(together.at(job.name), alone.at(job.name))) << "job " << job.name;
  }
}

// Some train all layers, some end above the first, some change a projection's input, all in one pack.
TEST_P(StageBitsTest, GradientsInCompanyAreThoseOfTheReferenceAlone) {
  const Results together = run_packs(backbone, options(), everybody());
  for (const TestJob& job : jobs) {
    const Results alone = run_packs(backbone, {.backend = "ref"}, {{{&job, 0}}, {{&job, 1}}});
    for (const auto& [name, expected] : alone.at(job.name).gradients) {
      const std::vector<float>& gradient = together.at(job.name).gradients.at(name);
      double error = 0, norm = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        error += std::pow(double(gradient[i]) - double(expected[i]), 2);
        norm += std::pow(double(expected[i]), 2);
      }
      EXPECT_LE(std::sqrt(error), 1e-4 * std::sqrt(norm)) << job.name << " " << name;
    }
  }
}

TEST_P(StageBitsTest, OrderOfSegmentsShowsInNoBits) {
  auto packs = everybody();
  const Results expected = run_packs(backbone, options(), packs);
  for (auto& pack : packs) std::reverse(pack.begin(), pack.end());
  expect_same(run_packs(backbone, options(), packs), expected);
}

TEST_P(StageBitsTest, MicroBatchesInOnePackHaveTheBitsOfTwoPacks) {
  auto packs = everybody();
  const Results expected = run_packs(backbone, options(), packs);
  packs[0].insert(packs[0].end(), packs[1].begin(), packs[1].end());
  packs.pop_back();
  expect_same(run_packs(backbone, options(), packs), expected);
}

TEST_P(StageBitsTest, NumberOfStagesShowsInNoBits) {
  const Results expected = run_packs(backbone, options(), everybody());
  for (int stages : {2, 3, 4}) {
    RunOptions split = options();
    split.stages = stages;
    expect_same(run_packs(backbone, split, everybody()), expected);
  }
}

TEST_P(StageBitsTest, CheckpointingShowsInNoBits) {
  const Results expected = run_packs(backbone, options(), everybody());
  RunOptions checkpointing = options();
  checkpointing.checkpointing = true;
  expect_same(run_packs(backbone, checkpointing, everybody()), expected);
  checkpointing.stages = 2;
  expect_same(run_packs(backbone, checkpointing, everybody()), expected);
}

TEST_P(StageBitsTest, NumberOfThreadsShowsInNoBits) {
  const Results expected = run_packs(backbone, options(), everybody());
  RunOptions threads = options();
  threads.threads = 2;
  expect_same(run_packs(backbone, threads, everybody()), expected);
}

TEST_P(StageBitsTest, Bfloat16IsIsolatedToo) {
  RunOptions bf16 = options();
  bf16.compute = DType::kBF16;
  const Results together = run_packs(backbone, bf16, everybody());
  bf16.stages = 2;
  bf16.checkpointing = true;
  for (const TestJob& job : jobs) {
    const Results alone = run_packs(backbone, bf16, {{{&job, 0}}, {{&job, 1}}});
    EXPECT_TRUE(same_bits(together.at(job.name), alone.at(job.name))) << "job " << job.name;
  }
}

// A segment that is computed down to the embedding although nothing of it is trainable there.
TEST_P(StageBitsTest, StoppingAtTheLowestTrainableLayerChangesNoGradient) {
  const Results expected = run_packs(backbone, options(), everybody());
  for (TestJob& job : jobs)
    if (job.training) job.lowest_layer = -1;
  expect_same(run_packs(backbone, options(), everybody()), expected);
}

TEST_P(StageBitsTest, NanStaysWithItsJob) {
  const Results expected = run_packs(backbone, options(), everybody());
  for (size_t broken : {0, 8}) {
    TestJob healthy = jobs[broken];
    for (auto& [name, tensor] : jobs[broken].tensors) tensor.values[0] = NAN;
    for (const auto& [job, result] : run_packs(backbone, options(), everybody())) {
      if (job == jobs[broken].name) {
        EXPECT_TRUE(std::isnan(result.losses[0]));
      } else {
        EXPECT_TRUE(same_bits(result, expected.at(job))) << "job " << job;
      }
    }
    jobs[broken] = healthy;
  }
}

TEST_P(StageBitsTest, OtherShapesAreIsolatedToo) {
  const TinyShape shapes[] = {{.family = "qwen3", .head_dim = 8, .tied = true},
                              {.family = "llama", .kv_heads = 1, .biases = true, .rope = "dynamic"},
                              {.family = "mistral", .window = 3},
                              {.intermediate = 2100, .layers = 2},
                              {.intermediate = 25, .kv_heads = 1}};
  for (const TinyShape& shape : shapes) {
    const TinyBackbone other(shape);
    const BackboneConfig& config = other.config();
    const TestJob lora = make_job("lora", R"({"peft_type": "LORA", "target_modules": "all-linear"})", config);
    const TestJob prefix =
        make_job("prefix", R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5})", config);
    TestJob every = make_job("every", every_hook_config(config));
    every.lengths = {11, 4};
    for (DType compute : {DType::kF32, DType::kBF16}) {
      RunOptions all = options(), alone = options();
      all.compute = alone.compute = compute;
      alone.stages = 2;
      alone.checkpointing = true;
      const Results together = run_packs(other, all, {{{&lora, 0}, {&every, 0}, {&prefix, 0}}});
      for (const TestJob* job : std::initializer_list<const TestJob*>{&lora, &every, &prefix})
        EXPECT_TRUE(same_bits(together.at(job->name), run_packs(other, alone, {{{job, 0}}}).at(job->name)))
            << shape.family << " " << job->name << " in " << dtype_name(compute);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, StageBitsTest, testing::ValuesIn(backend_names()));

}  // namespace
}  // namespace coppice
