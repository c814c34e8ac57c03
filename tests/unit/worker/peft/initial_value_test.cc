#include <gtest/gtest.h>

#include <cmath>

#include "worker/peft/method.h"

namespace coppice {
namespace {

TensorSpec spec(Initial::Kind kind, float scale) {
  TensorSpec spec;
  spec.name = "model.layers.3.self_attn.q_proj.lora_A";
  spec.shape = {40, 250};
  spec.initial.kind = kind;
  spec.initial.scale = scale;
  return spec;
}

struct Moments {
  double mean = 0, deviation = 0, largest = 0;
};
Moments moments(const Tensor& tensor) {
  Moments m;
  for (float value : tensor.values) {
    m.mean += double(value) / double(tensor.values.size());
    m.largest = std::max(m.largest, std::abs(double(value)));
  }
  for (float value : tensor.values) m.deviation += std::pow(double(value) - m.mean, 2);
  m.deviation = std::sqrt(m.deviation / double(tensor.values.size()));
  return m;
}

TEST(InitialValueTest, HasTheAskedDistribution) {
  const Moments normal = moments(initial_value(spec(Initial::Kind::kNormal, 0.5f), 1, {}));
  EXPECT_NEAR(normal.mean, 0, 0.02);
  EXPECT_NEAR(normal.deviation, 0.5, 0.02);
  EXPECT_GT(normal.largest, 1.4);
  const Moments uniform = moments(initial_value(spec(Initial::Kind::kUniform, 0.5f), 1, {}));
  EXPECT_NEAR(uniform.mean, 0, 0.02);
  EXPECT_NEAR(uniform.deviation, 0.5 / std::sqrt(3.0), 0.01);
  EXPECT_LE(uniform.largest, 0.5);
  EXPECT_EQ(initial_value(spec(Initial::Kind::kOnes, 0), 1, {}).values, std::vector<float>(10000, 1.0f));
  EXPECT_EQ(moments(initial_value(spec(Initial::Kind::kZeros, 0), 1, {})).largest, 0);
}

// A change of these breaks every run that is resumed before its first commit, and every recorded curve.
TEST(InitialValueTest, KeepsItsBits) {
  const Tensor tensor = initial_value(spec(Initial::Kind::kUniform, 1), 42, {});
  EXPECT_FLOAT_EQ(tensor.values[0], 0.19286144f);
  EXPECT_FLOAT_EQ(tensor.values[9999], -0.59443009f);
}

}  // namespace
}  // namespace coppice
