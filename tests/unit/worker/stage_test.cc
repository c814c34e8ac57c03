// What a stage computes: gradients against finite differences of its own loss, adapters and their slots, what
// is kept.

#include "worker/stage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "common/base/random.h"
#include "common/io/safetensors.h"
#include "kernels/profile.h"
#include "tests/unit/worker/every_hook.h"
#include "tests/unit/worker/stage_run.h"

namespace coppice {
namespace {

double total_loss(TestPipeline& pipeline, const TestJob& job, const BackboneConfig& config) {
  pipeline.set_adapter(job);
  Results results;
  pipeline.run(build_pack({{&job, 0}}, config), results);
  return results.at(job.name).losses.at(0);
}

// The gradient of each tensor along a random direction is the slope of the loss along it.
void expect_finite_differences(const TinyBackbone& backbone, TestJob job) {
  const BackboneConfig& config = backbone.config();
  const Results results = run_packs(backbone, {}, {{{&job, 0}}});
  TestPipeline pipeline(backbone, {});
  for (const auto& [name, gradient] : results.at(job.name).gradients) {
    std::vector<float>& values = job.tensors.at(name).values;
    const std::vector<float> at = values;
    ASSERT_EQ(gradient.size(), at.size());
    std::vector<double> direction(at.size());
    Random random(name_hash(name));
    double length = 0, slope = 0, norm = 0;
    for (double& d : direction) {
      d = random.normal();
      length += d * d;
    }
    for (size_t i = 0; i < at.size(); ++i) {
      direction[i] /= std::sqrt(length);
      slope += direction[i] * double(gradient[i]);
      norm += double(gradient[i]) * double(gradient[i]);
    }
    constexpr double kStep = 4e-3;
    const auto loss_at = [&](double step) {
      for (size_t i = 0; i < at.size(); ++i) values[i] = float(double(at[i]) + step * direction[i]);
      return total_loss(pipeline, job, config);
    };
    const double difference = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
    EXPECT_NEAR(slope, difference, 4e-3 * std::max(std::sqrt(norm), 0.05)) << name;
    values = at;
  }
}

// What goes from one product to the next, backward as well, is two bytes.
TEST(StageTest, RowsBetweenProductsAreBfloat16) {
  const TinyBackbone backbone;
  const BackboneConfig& config = backbone.config();
  ThreadPool pool(1);
  Profile profile;
  ProfiledBackend device(make_backend("ref", pool), 0, profile);
  const TestJob job = make_job(
      "lora", R"({"peft_type": "LORA", "r": 2, "target_modules": ["embed_tokens", "down_proj"]})", config);
  run_packs(backbone, {.compute = DType::kBF16, .device = &device}, {{{&job, 0}}});
  const Buffer buffer = device.allocate(4 * sizeof(float));
  const Matrix one = buffer.matrix(1, 1);
  device.adamw({.step = 1}, one, one, one, one);  // counted is what comes before an update
  const auto bytes = [&](const char* name) { return profile.operators.at(name).bytes; };
  const auto rows = double(8 * config.layers);
  const double inner = rows * double(config.intermediate) * 2;
  EXPECT_EQ(bytes("gated_activation"), 2 * 3 * inner);  // in the forward, and again
  EXPECT_EQ(bytes("gated_activation_backward"), 5 * inner);
  const double q = double(config.q_size()), kv = double(config.kv_size());
  const double rounded = 3 * q + 2 * kv, exact = q + 2 * kv + double(config.heads);
  EXPECT_EQ(bytes("attention_backward"), rows * (rounded * 2 + exact * 4));
}

TEST(StageTest, GradientsOfEveryHookAreFiniteDifferences) {
  const TinyBackbone backbone({.layers = 2});
  expect_finite_differences(backbone, make_job("every", every_hook_config(backbone.config())));
}

TEST(StageTest, GradientsWithHeadNormsAndBiasesAndWindowsAreFiniteDifferences) {
  const TinyBackbone qwen({.family = "qwen3", .layers = 2, .kv_heads = 4, .tied = true});
  expect_finite_differences(qwen, make_job("every", every_hook_config(qwen.config())));
  const TinyBackbone llama({.layers = 2, .kv_heads = 1, .biases = true});
  expect_finite_differences(llama, make_job("every", every_hook_config(llama.config())));
  const TinyBackbone mistral({.family = "mistral", .layers = 2, .window = 2});
  expect_finite_differences(mistral, make_job("every", every_hook_config(mistral.config())));
}

TEST(StageTest, GradientsStartAtZeroAfterTheyAreTaken) {
  const TinyBackbone backbone;
  const TestJob job = make_job("lora", R"({"peft_type": "LORA"})", backbone.config());
  TestPipeline pipeline(backbone, {});
  pipeline.set_adapter(job);
  Results first, second;
  pipeline.run(build_pack({{&job, 0}}, backbone.config()), first);
  pipeline.take_gradients(job, first);
  pipeline.run(build_pack({{&job, 0}}, backbone.config()), second);
  pipeline.take_gradients(job, second);
  EXPECT_TRUE(same_bits(first.at("lora"), second.at("lora")));
}

TEST(StageTest, EvaluationAddsNoGradient) {
  const TinyBackbone backbone;
  const TestJob job = make_job("every", every_hook_config(backbone.config()));
  TestJob evaluation = job;
  evaluation.training = false;
  TestPipeline pipeline(backbone, {});
  pipeline.set_adapter(job);
  Results results;
  pipeline.run(build_pack({{&evaluation, 0}}, backbone.config()), results);
  pipeline.take_gradients(job, results);
  for (const auto& [name, gradient] : results.at("every").gradients)
    for (float value : gradient) ASSERT_EQ(value, 0) << name;
}

TEST(StageTest, AdapterTensorsLiveInTheirLayersStage) {
  const TinyBackbone backbone;
  const TestJob job = make_job("every", every_hook_config(backbone.config()));
  TestPipeline pipeline(backbone, {.stages = 4});
  int64_t numbers = 0;
  for (size_t s = 0; s < 4; ++s)
    for (const NumberedTensor& tensor : pipeline.stage(s).initial_tensors(*job.method, 1)) {
      const TensorSpec& spec = job.method->tensors()[size_t(tensor.number)];
      EXPECT_EQ(std::clamp<int64_t>(spec.layer, 0, 3), int64_t(s)) << spec.name;
      EXPECT_EQ(tensor.tensor.shape, spec.shape);
      ++numbers;
    }
  EXPECT_EQ(numbers, int64_t(job.method->tensors().size()));
}

TEST(StageTest, VersionZeroStartsFromRowsOfTheEmbedding) {
  const TinyBackbone backbone;
  const TestJob job = make_job(
      "prompt",
      R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "prompt_tuning_init": "SAMPLE_VOCAB"})",
      backbone.config());
  TestPipeline pipeline(backbone, {});
  const auto tensors = pipeline.stage(0).initial_tensors(*job.method, 5);
  ASSERT_EQ(tensors.size(), 1u);
  const Tensor table = to_f32(
      SafetensorsFile::open(backbone.folder() + "/model.safetensors").tensor("model.embed_tokens.weight"));
  const auto hidden = size_t(backbone.config().hidden);
  for (size_t row = 0; row < 3; ++row) {
    const auto begin = tensors[0].tensor.values.begin() + std::ptrdiff_t(row * hidden);
    const auto found =
        std::search(table.values.begin(), table.values.end(), begin, begin + std::ptrdiff_t(hidden));
    EXPECT_NE(found, table.values.end()) << row;
  }
}

TEST(StageTest, MemoryIsGivenBackWhenThePackIsFinished) {
  const TinyBackbone backbone;
  const TestJob job = make_job("every", every_hook_config(backbone.config()));
  TestPipeline pipeline(backbone, {.stages = 2});
  pipeline.set_adapter(job);
  const size_t before = pipeline.backend().allocated_bytes();
  Results results;
  pipeline.run(build_pack({{&job, 0}}, backbone.config()), results);
  pipeline.take_gradients(job, results);
  EXPECT_EQ(pipeline.backend().allocated_bytes(), before);
  pipeline.stage(0).drop_adapter("every");
  pipeline.stage(1).drop_adapter("every");
  EXPECT_EQ(pipeline.stage(0).adapter_bytes(), 0u);
  EXPECT_LT(pipeline.backend().allocated_bytes(), before);
}

// Bytes that are alive between forward and backward, without the rows that leave.
size_t kept_bytes(const TinyBackbone& backbone, const TestJob& job, bool checkpointing) {
  TestPipeline pipeline(backbone, {});
  pipeline.set_adapter(job);
  const BuiltPack built = build_pack({{&job, 0}}, backbone.config(), checkpointing);
  const size_t before = pipeline.backend().allocated_bytes();
  { const Rows rows = pipeline.stage(0).forward(built.pack, built.tokens); }
  return pipeline.backend().allocated_bytes() - before;
}

TEST(StageTest, KeepsOnlyWhatABackwardNeeds) {
  const TinyBackbone backbone;
  TestJob all = make_job("lora", R"({"peft_type": "LORA", "r": 1})", backbone.config());
  all.lengths = {64};
  TestJob upper = all;
  upper.lowest_layer = 3;
  TestJob evaluation = all;
  evaluation.training = false;
  const size_t everything = kept_bytes(backbone, all, false);
  EXPECT_LT(kept_bytes(backbone, all, true), everything / 3);
  EXPECT_LT(kept_bytes(backbone, upper, false), everything / 3);
  EXPECT_LT(kept_bytes(backbone, evaluation, false), everything / 10);
}

using StageDeathTest = testing::Test;

TEST(StageDeathTest, MicroBatchesOfAJobMustAscend) {
  const TinyBackbone backbone;
  const TestJob job = make_job("lora", R"({"peft_type": "LORA"})", backbone.config());
  EXPECT_DEATH(run_packs(backbone, {}, {{{&job, 1}, {&job, 0}}}), "last_micro_batch");
}

}  // namespace
}  // namespace coppice
