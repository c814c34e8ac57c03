// What every registered method owes on every device: the identity at version 0 where it says so, gradients
// that are those of its forward, and isolation to the bit beside all the others.

#include <gtest/gtest.h>

#include <cmath>

#include "common/base/random.h"
#include "tests/contract/method/examples.h"

namespace coppice {
namespace {

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

class MethodTest : public testing::TestWithParam<std::string> {
 protected:
  TinyBackbone backbone;
  std::vector<ExampleJob> jobs = example_jobs(backbone.config());

  RunOptions options() const { return {.backend = GetParam()}; }
  Results run(const std::vector<MicroBatch>& pack) { return run_packs(backbone, options(), {pack}); }

  // The loss of one micro-batch of a job, summed in double.
  double loss(TestPipeline& pipeline, const BuiltPack& pack, const TestJob& job) {
    pipeline.set_adapter(job);
    Results results;
    pipeline.run(pack, results);
    return results.at(job.name).losses.at(0);
  }
};

TEST_P(MethodTest, StartsAsTheIdentityWhereItSaysSo) {
  TestPipeline pipeline(backbone, options());
  for (const ExampleJob& example : jobs) {
    TestJob start = example.at_version_0(pipeline.stage(0), 11);
    start.training = false;
    TestJob bare = start;
    bare.method = nullptr;
    Results with, without;
    pipeline.set_adapter(start);
    pipeline.run(build_pack({{&start, 0}}, backbone.config()), with);
    pipeline.stage(0).drop_adapter(start.name);
    pipeline.run(build_pack({{&bare, 0}}, backbone.config()), without);
    const bool equal = with.at(start.name).log_probabilities == without.at(start.name).log_probabilities;
    EXPECT_EQ(equal, example.example.identity) << start.name;
  }
}

// Central differences of the loss against the gradient: along the gradient of each tensor itself, where it
// must give the gradient's norm, and along a random direction.
TEST_P(MethodTest, GradientsAreThoseOfTheForward) {
  constexpr double kStep = 4e-3, kTolerance = 6e-3;
  TestPipeline pipeline(backbone, options());
  for (const ExampleJob& example : jobs) {
    const TestJob& job = example.job;
    const BuiltPack pack = build_pack({{&job, 0}}, backbone.config());
    loss(pipeline, pack, job);
    Results results;
    pipeline.take_gradients(job, results);
    double whole = 0;
    for (const auto& [name, gradient] : results.at(job.name).gradients) whole += dot(gradient, gradient);
    for (const TensorSpec& spec : job.method->tensors()) {
      const std::vector<float>& gradient = results.at(job.name).gradients.at(spec.name);
      Random random(name_hash(spec.name));
      for (const bool along : {true, false}) {
        std::vector<float> direction = gradient;
        if (!along)
          for (float& value : direction) value = float(random.normal());
        const double norm = std::sqrt(dot(direction, direction));
        ASSERT_GT(norm, 0) << job.name << " " << spec.name;
        TestJob moved = job;
        std::vector<float>& values = moved.tensors.at(spec.name).values;
        const auto at = [&](double step) {
          const std::vector<float>& from = job.tensors.at(spec.name).values;
          for (size_t i = 0; i < values.size(); ++i)
            values[i] = float(double(from[i]) + step / norm * double(direction[i]));
          return loss(pipeline, pack, moved);
        };
        const double slope = (at(kStep) - at(-kStep)) / (2 * kStep);
        const double expected = dot(gradient, direction) / norm;
        EXPECT_NEAR(slope, expected,
                    kTolerance * (std::sqrt(dot(gradient, gradient)) + 0.02 * std::sqrt(whole)))
            << job.name << " " << spec.name << (along ? " along its gradient" : " along a random direction");
      }
    }
  }
}

TEST_P(MethodTest, JobAloneHasTheBitsItHasBesideAllOthers) {
  std::vector<MicroBatch> first = one_of_each(jobs, 0), second = one_of_each(jobs, 1);
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    RunOptions mixed = options();
    mixed.compute = compute;
    const Results together = run_packs(backbone, mixed, {first, second});
    RunOptions alone = mixed;
    alone.threads = 2;
    alone.stages = 2;
    alone.checkpointing = true;
    for (const ExampleJob& example : jobs) {
      const Results by_itself = run_packs(backbone, alone, {{{&example.job, 0}, {&example.job, 1}}});
      EXPECT_TRUE(same_bits(by_itself.at(example.job.name), together.at(example.job.name)))
          << example.job.name << " " << dtype_name(compute);
    }
  }
}

TEST_P(MethodTest, OthersGradientsStayZero) {
  for (const ExampleJob& example : jobs) {
    TestPipeline pipeline(backbone, options());
    for (const ExampleJob& other : jobs) pipeline.set_adapter(other.job);
    Results results;
    pipeline.run(build_pack({{&example.job, 0}}, backbone.config()), results);
    for (const ExampleJob& other : jobs) {
      if (other.job.name == example.job.name) continue;
      pipeline.take_gradients(other.job, results);
      for (const auto& [name, gradient] : results.at(other.job.name).gradients) {
        EXPECT_EQ(gradient, std::vector<float>(gradient.size())) << example.job.name << " changed " << name;
      }
    }
  }
}

// Evaluation needs no gradient slots, drops nothing out, and gives what a training forward without dropout
// gives.
TEST_P(MethodTest, EvaluatesWithoutDropoutAndGradients) {
  for (const ExampleJob& example : jobs) {
    TestJob evaluation = example.job;
    evaluation.training = false;
    const bool drops = example.example.keys.contains("lora_dropout");
    const Results trained = run({{&example.job, 0}}), evaluated = run({{&evaluation, 0}});
    const bool equal = trained.at(example.job.name).losses == evaluated.at(example.job.name).losses;
    EXPECT_EQ(equal, !drops) << example.job.name;
    EXPECT_TRUE(evaluated.at(example.job.name).gradients.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, MethodTest, testing::ValuesIn(backend_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace coppice
