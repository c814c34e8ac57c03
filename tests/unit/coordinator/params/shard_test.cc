#include "coordinator/params/shard.h"

#include <gmock/gmock.h>

#include "common/base/thread_pool.h"
#include "kernels/ref/ref_backend.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor tensor(Shape shape, std::vector<float> values) {
  Tensor made(std::move(shape));
  made.values = std::move(values);
  return made;
}

class ShardTest : public ::testing::Test {
 protected:
  ThreadPool pool_{1};
  RefBackend backend_{pool_};
  Shard shard_{backend_};

  // Two tensors: number 7 of [2, 2], number 3 of [2].
  static ShardState two_tensors() {
    ShardState state;
    state.tensors = {{7, "a", {2, 2}}, {3, "b", {2}}};
    state.parameters = {tensor({2, 2}, {0.5f, -1.25f, 2.0f, 0.03125f}), tensor({2}, {-3.0f, 1e-3f})};
    return state;
  }
  void push_both(int64_t version, const std::vector<float>& g) {
    shard_.push("job", version, 3, tensor({2}, {g[4], g[5]}));
    shard_.push("job", version, 7, tensor({2, 2}, {g[0], g[1], g[2], g[3]}));
  }
  std::vector<float> values() const {
    std::vector<float> all = shard_.parameter("job", 7).values;
    const auto& second = shard_.parameter("job", 3).values;
    all.insert(all.end(), second.begin(), second.end());
    return all;
  }
  template <typename Call>
  std::string refusal(const Call& call, ErrorCode code = ErrorCode::kInvalid) {
    const Error error = error_of(call);
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
};

const std::vector<std::vector<float>> kGradients = {{0.1f, -0.2f, 0.3f, -0.4f, 0.5f, -0.6f},
                                                    {1.0f, 0.0f, -2.0f, 0.25f, 1e-4f, 8.0f},
                                                    {-0.3f, 0.3f, 0.05f, -1e-3f, 2.0f, -4.0f}};
const UpdateStep kSteps[] = {{1e-2, 1.0}, {5e-3, 0.5}, {2e-2, 0.25}};

void expect_near(const std::vector<float>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_NEAR(got[i], want[i], 1e-6 * (std::abs(want[i]) + 0.1)) << i;
}

// torch 2.15: AdamW(betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1), gradients times the factors, the rates
// set before each step.
TEST_F(ShardTest, AdamWGivesTheNumbersOfTorch) {
  TrainArguments train;
  train.adam_beta1 = 0.9;
  train.adam_beta2 = 0.98;
  train.adam_epsilon = 1e-6;
  train.weight_decay = 0.1;
  shard_.add("job", train, two_tensors());
  const std::vector<std::vector<double>> wanted = {
      {0.48950010538101196, -1.2387499809265137, 1.9880000352859497, 0.041218724101781845, -3.006999969482422,
       0.010998984798789024},
      {0.48496904969215393, -1.2347640991210938, 1.989597201347351, 0.04329374432563782, -3.0088634490966797,
       0.00782516598701477},
      {0.47268685698509216, -1.2270482778549194, 1.9935156106948853, 0.04972602799534798, -3.0192060470581055,
       0.0013259248808026314}};
  for (size_t i = 0; i < 3; ++i) {
    push_both(int64_t(i), kGradients[i]);
    shard_.update("job", kSteps[i]);
    expect_near(values(), wanted[i]);
  }
  const ShardState state = shard_.state("job");
  EXPECT_EQ(state.version, 3);
  expect_near(state.moments[0][0].values,
              {0.045600004494190216, -0.008700001053512096, -0.06444999575614929, -0.021175000816583633});
  expect_near(state.moments[1][1].values, {0.009802000597119331, 0.3405148983001709});
}

// torch.optim.SGD(momentum=0.9, weight_decay=0.01).
TEST_F(ShardTest, SgdWithMomentumGivesTheNumbersOfTorch) {
  TrainArguments train;
  train.optim = Optimizer::kSgd;
  train.momentum = 0.9;
  train.weight_decay = 0.01;
  shard_.add("job", train, two_tensors());
  const std::vector<std::vector<double>> wanted = {
      {0.4989500045776367, -1.2478749752044678, 1.9967999458312988, 0.03524687513709068, -3.004699945449829,
       0.006999900098890066},
      {0.4959525465965271, -1.2468563318252563, 2.0002601146698, 0.03641870617866516, -3.006664991378784,
       -0.01030049566179514},
      {0.4865625500679016, -1.2444398403167725, 2.012066602706909, 0.040635015815496445, -3.0231378078460693,
       -0.0525798574090004}};
  for (size_t i = 0; i < 3; ++i) {
    push_both(int64_t(i), kGradients[i]);
    shard_.update("job", kSteps[i]);
    expect_near(values(), wanted[i]);
  }
  expect_near(shard_.state("job").moments[1][0].values, {0.8236360549926758, 2.1139681339263916});
}

TEST_F(ShardTest, SgdWithoutMomentumKeepsNoMoments) {
  TrainArguments train;
  train.optim = Optimizer::kSgd;
  shard_.add("job", train, two_tensors());
  for (size_t i = 0; i < 3; ++i) {
    push_both(int64_t(i), kGradients[i]);
    shard_.update("job", kSteps[i]);
  }
  expect_near(values(), {0.49800002574920654, -1.249500036239624, 2.0017499923706055, 0.034630000591278076,
                         -3.015000343322754, 0.007000000216066837});
  EXPECT_TRUE(shard_.state("job").moments[0].empty());
  EXPECT_EQ(shard_.bytes(), 6 * sizeof(float));
}

TEST_F(ShardTest, AStateThatWasTakenOutGoesOnToTheSameBits) {
  TrainArguments train;
  shard_.add("job", train, two_tensors());
  push_both(0, kGradients[0]);
  shard_.update("job", kSteps[0]);
  const ShardState between = shard_.state("job");
  push_both(1, kGradients[1]);
  shard_.update("job", kSteps[1]);
  const auto wanted = values();
  shard_.remove("job");
  EXPECT_FALSE(shard_.has("job"));
  shard_.add("job", train, between);
  EXPECT_EQ(shard_.version("job"), 1);
  push_both(1, kGradients[1]);
  shard_.update("job", kSteps[1]);
  EXPECT_EQ(values(), wanted);
}

TEST_F(ShardTest, NormsAreByTensorAndAStepIsCompleteWhenAllGradientsAreThere) {
  shard_.add("job", {}, two_tensors());
  EXPECT_FALSE(shard_.complete("job"));
  shard_.push("job", 0, 3, tensor({2}, {3, 4}));
  EXPECT_FALSE(shard_.complete("job"));
  EXPECT_THAT(refusal([&] { shard_.update("job", {}); }), HasSubstr("1 gradients are missing"));
  shard_.push("job", 0, 7, tensor({2, 2}, {1, 2, 0, -2}));
  EXPECT_TRUE(shard_.complete("job"));
  EXPECT_THAT(shard_.squared_norms("job"), ElementsAre(9, 25));
  EXPECT_EQ(shard_.bytes(), 3 * 6 * sizeof(float));
}

TEST_F(ShardTest, AGradientThatDoesNotFitIsRefusedAndChangesNothing) {
  shard_.add("job", {}, two_tensors());
  const auto before = values();
  shard_.push("job", 0, 3, tensor({2}, {3, 4}));
  EXPECT_EQ(refusal([&] {
              shard_.push("job", 0, 3, tensor({2}, {3, 4}));
            }),
            "job job: tensor b has its gradient of version 0 already");
  EXPECT_EQ(refusal([&] {
              shard_.push("job", 1, 7, Tensor({2, 2}));
            }),
            "job job: a gradient is of version 1, the adapter is at 0");
  EXPECT_EQ(refusal([&] { shard_.push("job", 0, 7, Tensor({4})); }),
            "job job: the gradient of a has the shape [4], not [2, 2]");
  EXPECT_EQ(refusal([&] { shard_.push("job", 0, 5, Tensor({2})); }), "job job: has no tensor 5");
  refusal([&] { shard_.push("other", 0, 7, Tensor({2, 2})); }, ErrorCode::kNotFound);
  EXPECT_FALSE(shard_.complete("job"));
  EXPECT_EQ(values(), before);
  // The gradients of a step that is given up make room for its repetition.
  shard_.discard_gradients("job");
  push_both(0, kGradients[0]);
  shard_.update("job", kSteps[0]);
  EXPECT_THAT(refusal([&] { shard_.push("job", 0, 7, Tensor({2, 2})); }), HasSubstr("the adapter is at 1"));
}

TEST_F(ShardTest, AStateThatDoesNotHoldTogetherIsRefused) {
  ShardState state = two_tensors();
  state.parameters.pop_back();
  EXPECT_THAT(refusal([&] { shard_.add("job", {}, state); }),
              HasSubstr("2 tensors are announced, 1 are there"));
  state = two_tensors();
  state.parameters[1] = Tensor({3});
  EXPECT_THAT(refusal([&] { shard_.add("job", {}, state); }),
              HasSubstr("tensor b has the shape [3], not [2]"));
  state = two_tensors();
  state.moments = {{Tensor({2, 2}), Tensor({2, 2})}, {Tensor({2})}};
  EXPECT_THAT(refusal([&] { shard_.add("job", {}, state); }),
              HasSubstr("b has 1 moments, its optimizer needs 2"));
  state.moments[1] = {Tensor({2}), Tensor({1, 2})};
  EXPECT_THAT(refusal([&] { shard_.add("job", {}, state); }),
              HasSubstr("a moment of tensor b has the shape [1, 2]"));
  state.moments.pop_back();
  EXPECT_THAT(refusal([&] { shard_.add("job", {}, state); }), HasSubstr("moments of 1 are there"));
  state = two_tensors();
  state.tensors[1].number = 7;
  EXPECT_THAT(refusal([&] { shard_.add("job", {}, state); }), HasSubstr("two tensors have the number 7"));
  EXPECT_FALSE(shard_.has("job"));
}

}  // namespace
}  // namespace coppice
