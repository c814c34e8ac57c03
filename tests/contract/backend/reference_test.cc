// The reference itself: its values against the same operators in double, its backward against central
// differences of them.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>

#include "tests/contract/backend/device.h"
#include "tests/contract/backend/doubles.h"
#include "tests/contract/backend/operators.h"
#include "tests/contract/backend/tolerance.h"

namespace coppice::contract {
namespace {

Doubles doubles(const Array& array) {
  return {array.f(), array.f() + array.size()};
}

Doubles rounded_doubles(const Array& array) {
  Doubles values = doubles(array);
  for (double& value : values) value = round_to_bf16(float(value));
  return values;
}

Array transposed(const Array& x) {
  Array y(x.cols, x.rows);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) y.at(c, r) = x.at(r, c);
  }
  return y;
}

class ReferenceTest : public ::testing::Test {
 protected:
  Matrix put(const Array& array) {
    buffers_.push_back(device_->allocate(array.bytes.size()));
    const Matrix matrix = buffers_.back().matrix(array.rows, array.cols, array.dtype);
    device_->upload(array.bytes.data(), matrix);
    return matrix;
  }
  Matrix undefined(int64_t rows, int64_t cols) { return put(filled(rows, cols, NAN)); }
  Array random(int64_t rows, int64_t cols, float scale = 1) { return uniform(rows, cols, random_, scale); }

  void expect_values(const Matrix& actual, const Doubles& expected, double tolerance, const std::string& what,
                     double magnitude = 0) {
    Array values(actual.rows, actual.cols), wanted(actual.rows, actual.cols);
    device_->download(actual, values.bytes.data());
    ASSERT_EQ(size_t(wanted.size()), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) wanted.f()[i] = float(expected[i]);
    expect_close(values, wanted, tolerance, what, magnitude);
  }

  Random random_{17};
  Device device_{"ref", 2};
  std::deque<Buffer> buffers_;  // after their device, so that they go first
};

TEST_F(ReferenceTest, LinearMultipliesByTheTransposedWeight) {
  for (DType compute : {DType::kF32, DType::kBF16}) {
    const auto values = compute == DType::kF32 ? doubles : rounded_doubles;
    const Array x = random(5, 33), w = random(9, 33), bias = random(1, 9), dy = random(5, 9),
                start = random(5, 33);
    const auto weight = device_->prepare_weight(w.view(), compute);
    const Matrix y = undefined(5, 9), dx = put(start);
    device_->linear(*weight, put(x), put(bias), y);
    Doubles expected = matmul_in_double(values(x), values(transposed(w)), 5, 33, 9);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += bias.f()[i % 9];
    expect_values(y, expected, kSumTolerance, "y");
    device_->linear_backward(*weight, put(dy), dx, true);
    expected = matmul_in_double(values(dy), values(w), 5, 9, 33);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += start.f()[i];
    expect_values(dx, expected, kSumTolerance, "dx");
  }
}

TEST_F(ReferenceTest, WeightsOfEachDtypeAreTheirValues) {
  const Array w = random(6, 20), x = random(3, 20);
  for (DType stored : {DType::kF16, DType::kBF16}) {
    const Array halves = in_dtype(w, stored);
    Array values(6, 20);
    std::copy_n(to_f32(halves.view()).values.data(), values.size(), values.f());
    const auto weight = device_->prepare_weight(halves.view(), DType::kF32);
    const Matrix y = undefined(3, 6);
    device_->linear(*weight, put(x), {}, y);
    expect_values(y, matmul_in_double(doubles(x), doubles(transposed(values)), 3, 20, 6), kSumTolerance, "y");
  }
}

TEST_F(ReferenceTest, GroupedMatmulTransposesScalesAndAccumulates) {
  const Array a = random(7, 12), b = random(12, 5), start = random(7, 5);
  for (DType compute : {DType::kF32, DType::kBF16}) {
    const auto values = compute == DType::kF32 ? doubles : rounded_doubles;
    const Doubles product = matmul_in_double(values(a), values(b), 7, 12, 5);
    for (int variant = 0; variant < 8; ++variant) {
      const bool ta = variant & 1, tb = variant & 2, accumulate = variant & 4;
      const Matrix c = put(start);
      const MatmulItem item{
          put(ta ? transposed(a) : a), put(tb ? transposed(b) : b), c, ta, tb, -1.5f, accumulate};
      device_->grouped_matmul({&item, 1}, compute);
      Doubles expected = product;
      for (size_t i = 0; i < expected.size(); ++i)
        expected[i] = -1.5 * product[i] + (accumulate ? start.f()[i] : 0);
      expect_values(c, expected, kSumTolerance, fmt::format("variant {}", variant));
    }
  }
}

class AttentionReferenceTest : public ReferenceTest, public ::testing::WithParamInterface<AttentionCase> {};

TEST_P(AttentionReferenceTest, ForwardAndBackwardFollowTheFormula) {
  const AttentionCase& at = GetParam();
  const int64_t width = at.heads * at.head_dim, kv = at.kv_heads * at.head_dim, keys = at.past + at.queries;
  const Array in[] = {random(at.queries, width, 2), random(keys, kv), random(keys, kv), random(at.prefix, kv),
                      random(at.prefix, kv)};
  const bool prefix = at.prefix > 0;
  const AttentionShape shape{int(at.heads), int(at.kv_heads), int(at.head_dim), float(at.scale)};
  const AttentionItem item{put(in[0]),
                           put(in[1]),
                           put(in[2]),
                           prefix ? put(in[3]) : Matrix(),
                           prefix ? put(in[4]) : Matrix(),
                           at.window,
                           undefined(at.queries, width),
                           undefined(at.queries, at.heads)};
  Inputs values;
  for (const Array& array : in) values.push_back(doubles(array));
  Doubles log_sum;
  const Doubles out = attention_in_double(at, values, &log_sum);
  device_->attention(shape, {&item, 1}, DType::kBF16);
  expect_values(item.out, out, kRoundedTolerance, "out in BF16");
  device_->attention(shape, {&item, 1}, DType::kF32);
  expect_values(item.out, out, kSumTolerance, "out");
  expect_values(item.log_sum, log_sum, kSumTolerance, "log_sum");
  if (at.past > 0) return;

  const Array dout = random(at.queries, width), start = random(at.prefix, kv);
  for (DType compute : {DType::kF32, DType::kBF16}) {
    const AttentionBackwardItem backward{item,
                                         put(dout),
                                         undefined(at.queries, width),
                                         undefined(keys, kv),
                                         undefined(keys, kv),
                                         prefix ? put(start) : Matrix(),
                                         prefix ? put(start) : Matrix()};
    device_->attention(shape, {&item, 1}, compute);
    device_->attention_backward(shape, {&backward, 1}, compute);
    Inputs expected = gradients_in_double([&](const Inputs& x) { return attention_in_double(at, x); }, values,
                                          doubles(dout));
    for (size_t i = 0; i < expected[3].size(); ++i) {
      expected[3][i] += start.f()[i];
      expected[4][i] += start.f()[i];
    }
    const double tolerance = compute == DType::kF32 ? kSumTolerance : 2 * kRoundedTolerance;
    expect_values(backward.dq, expected[0], tolerance, "dq", 1);
    expect_values(backward.dk, expected[1], tolerance, "dk", 1);
    expect_values(backward.dv, expected[2], tolerance, "dv");
    if (prefix) expect_values(backward.dprefix_k, expected[3], tolerance, "dprefix_k");
    if (prefix) expect_values(backward.dprefix_v, expected[4], tolerance, "dprefix_v");
  }
}

constexpr AttentionCase kCases[] = {
    {.queries = 1, .heads = 1, .kv_heads = 1, .head_dim = 4, .scale = 0.5},
    {.queries = 9, .heads = 2, .kv_heads = 2, .head_dim = 6, .scale = 0.4},
    {.queries = 7, .heads = 6, .kv_heads = 2, .head_dim = 4, .scale = 0.5},
    {.queries = 9, .window = 3, .heads = 2, .kv_heads = 1, .head_dim = 4, .scale = 0.5},
    {.queries = 5, .prefix = 4, .heads = 2, .kv_heads = 1, .head_dim = 4, .scale = 0.5},
    {.queries = 6, .prefix = 4, .window = 5, .heads = 4, .kv_heads = 2, .head_dim = 4, .scale = 0.5},
    {.queries = 1, .past = 8, .heads = 4, .kv_heads = 2, .head_dim = 4, .scale = 0.5},
    {.queries = 3,
     .past = 5,
     .prefix = 2,
     .window = 6,
     .heads = 2,
     .kv_heads = 2,
     .head_dim = 4,
     .scale = 0.5}};

INSTANTIATE_TEST_SUITE_P(Cases, AttentionReferenceTest, ::testing::ValuesIn(kCases), [](const auto& info) {
  const AttentionCase& at = info.param;
  return fmt::format("{}queries_{}past_{}prefix_{}window_{}of{}heads", at.queries, at.past, at.prefix,
                     at.window, at.kv_heads, at.heads);
});

TEST_F(ReferenceTest, RotaryTurnsAndTurnsBack) {
  const int64_t rows = 5, heads = 3, head_dim = 8;
  const Array x = random(rows, heads * head_dim), cos = random(rows, head_dim / 2),
              sin = random(rows, head_dim / 2);
  const Array weights = random(rows, heads * head_dim);
  const Inputs in = {doubles(x), doubles(cos), doubles(sin)};
  const auto turn = [&](const Inputs& at) { return rotary_in_double(at, rows, heads, head_dim); };
  const Matrix turned = put(x), gradient = put(weights);
  device_->rotary(turned, put(cos), put(sin), int(head_dim), false, turned);
  expect_values(turned, turn(in), kSumTolerance, "turned");
  device_->rotary(gradient, put(cos), put(sin), int(head_dim), true, gradient);
  expect_values(gradient, gradients_in_double(turn, in, doubles(weights))[0], kSumTolerance, "gradient");
}

TEST_F(ReferenceTest, RmsNormAndItsBackwardFollowTheFormula) {
  const float epsilon = 0.01f;  // large enough to be seen
  const Array x = random(6, 11), weight = random(1, 11), dy = random(6, 11), start = random(6, 11);
  const Matrix y = undefined(6, 11), inverse = undefined(6, 1), dx = undefined(6, 11), added = put(start);
  device_->rms_norm(put(x), put(weight), epsilon, y, inverse);
  const auto norm = [&](const Inputs& in) { return rms_norm_in_double(in, 6, 11, epsilon); };
  expect_values(y, norm({doubles(x), doubles(weight)}), kSumTolerance, "y");
  Doubles gradient = gradients_in_double(norm, {doubles(x), doubles(weight)}, doubles(dy))[0];
  device_->rms_norm_backward(put(x), put(weight), inverse, put(dy), dx, false);
  expect_values(dx, gradient, kSumTolerance, "dx");
  device_->rms_norm_backward(put(x), put(weight), inverse, put(dy), added, true);
  for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += start.f()[i];
  expect_values(added, gradient, kSumTolerance, "dx added");
}

TEST_F(ReferenceTest, ActivationsAndTheirSlopesFollowTheFormula) {
  for (Activation f : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    SCOPED_TRACE(int(f));
    const Array x = random(7, 13, 6), up = random(7, 13), dy = random(7, 13);
    const Matrix y = undefined(7, 13), dx = undefined(7, 13), gated = undefined(7, 13);
    const Matrix dgate = undefined(7, 13), dup = undefined(7, 13);
    const UnaryItem forward{put(x), y};
    const UnaryBackwardItem backward{put(x), put(dy), dx};
    device_->activation(f, {&forward, 1});
    device_->activation_backward(f, {&backward, 1});
    device_->gated_activation(f, put(x), put(up), gated);
    device_->gated_activation_backward(f, put(x), put(up), put(dy), dgate, dup);
    const auto plain = [&](const Inputs& in) {
      Doubles value = in[0];
      for (double& v : value) v = activation_in_double(f, v);
      return value;
    };
    const auto with_up = [&](const Inputs& in) {
      Doubles value = plain(in);
      for (size_t i = 0; i < value.size(); ++i) value[i] *= in[1][i];
      return value;
    };
    const Inputs in = {doubles(x), doubles(up)};
    expect_values(y, plain(in), kSumTolerance, "y");
    expect_values(dx, gradients_in_double(plain, {in[0]}, doubles(dy))[0], kSumTolerance, "dx");
    expect_values(gated, with_up(in), kSumTolerance, "gated");
    const Inputs gradients = gradients_in_double(with_up, in, doubles(dy));
    expect_values(dgate, gradients[0], kSumTolerance, "dgate");
    expect_values(dup, gradients[1], kSumTolerance, "dup");
  }
}

TEST_F(ReferenceTest, ColumnScalesAndBiasesAndTheirSums) {
  const Array x = random(9, 7), scale = random(1, 7), dy = random(9, 7), start = random(1, 7);
  const Matrix y = undefined(9, 7), dx = undefined(9, 7), dscale = put(start), shifted = put(x),
               dbias = put(start);
  const ScaleColumnsItem forward{put(x), put(scale), y};
  const ScaleColumnsBackwardItem backward{put(x), put(scale), put(dy), dx, dscale};
  const BiasItem bias{put(scale), shifted}, bias_backward{dbias, put(dy)};
  device_->scale_columns({&forward, 1});
  device_->scale_columns_backward({&backward, 1});
  device_->add_bias({&bias, 1});
  device_->add_bias_backward({&bias_backward, 1});
  Doubles product = doubles(x), back = doubles(dy), plus = doubles(x), sums = doubles(start),
          column_sums = doubles(start);
  for (size_t i = 0; i < product.size(); ++i) {
    sums[i % 7] += product[i] * back[i];
    column_sums[i % 7] += back[i];
    product[i] *= scale.f()[i % 7];
    back[i] *= scale.f()[i % 7];
    plus[i] += scale.f()[i % 7];
  }
  expect_values(y, product, kSumTolerance, "y");
  expect_values(dx, back, kSumTolerance, "dx");
  expect_values(dscale, sums, kSumTolerance, "dscale");
  expect_values(shifted, plus, kSumTolerance, "with bias");
  expect_values(dbias, column_sums, kSumTolerance, "dbias");
}

TEST_F(ReferenceTest, CrossEntropyAndItsGradientFollowTheFormula) {
  const Array x = random(6, 19, 9), weights = random(6, 1), targets = indices(6, 19, random_);
  const std::vector<int32_t> target(targets.i(), targets.i() + 6);
  const auto loss_of = [&](const Inputs& in) { return cross_entropy_in_double(in, target, 6, 19); };
  const Matrix loss = undefined(6, 1), again = undefined(6, 1), logits = put(x);
  device_->cross_entropy(put(x), put(targets), loss);
  device_->cross_entropy_with_gradient(logits, put(targets), put(weights), again, logits);
  expect_values(loss, loss_of({doubles(x)}), kSumTolerance, "loss");
  expect_values(again, loss_of({doubles(x)}), kSumTolerance, "loss with gradient");
  expect_values(logits, gradients_in_double(loss_of, {doubles(x)}, doubles(weights))[0], kSumTolerance,
                "gradient");
}

TEST_F(ReferenceTest, CrossEntropyHoldsForHugeLogits) {
  Array x = filled(1, 3, -1e30f);
  x.at(0, 1) = 1e30f;
  const Matrix loss = undefined(1, 1);
  device_->cross_entropy(put(x), put(Array(1, 1, DType::kI32)), loss);
  expect_values(loss, {2e30}, 1e-6, "loss");
}

// torch.optim.AdamW, as its documentation gives it, for some steps in double.
TEST_F(ReferenceTest, AdamWFollowsTheAlgorithm) {
  const double rate = 0.05, beta1 = 0.9, beta2 = 0.99, epsilon = 1e-4, decay = 0.1, factor = 0.5;
  const Array start = random(3, 5);
  const Matrix parameter = put(start), m = put(filled(3, 5, 0)), v = put(filled(3, 5, 0));
  Doubles w = doubles(start), first(15), second(15);
  for (int64_t step = 1; step <= 20; ++step) {
    const Array gradient = random(3, 5);
    device_->adamw(
        {float(rate), float(beta1), float(beta2), float(epsilon), float(decay), float(factor), step},
        parameter, put(gradient), m, v);
    for (size_t i = 0; i < 15; ++i) {
      const double g = factor * gradient.f()[i];
      w[i] -= rate * decay * w[i];
      first[i] = beta1 * first[i] + (1 - beta1) * g;
      second[i] = beta2 * second[i] + (1 - beta2) * g * g;
      const double m_hat = first[i] / (1 - std::pow(beta1, step)),
                   v_hat = second[i] / (1 - std::pow(beta2, step));
      w[i] -= rate * m_hat / (std::sqrt(v_hat) + epsilon);
    }
  }
  expect_values(parameter, w, kSumTolerance, "parameter");
  expect_values(m, first, kSumTolerance, "first moment");
  expect_values(v, second, kSumTolerance, "second moment");
}

TEST_F(ReferenceTest, SgdFollowsTheAlgorithm) {
  for (double momentum : {0.0, 0.8}) {
    const double rate = 0.05, decay = 0.1, factor = 0.5;
    const Array start = random(3, 5);
    const Matrix parameter = put(start), buffer = momentum > 0 ? undefined(3, 5) : Matrix();
    Doubles w = doubles(start), kept(15);
    for (int64_t step = 1; step <= 10; ++step) {
      const Array gradient = random(3, 5);
      device_->sgd({float(rate), float(momentum), float(decay), float(factor), step}, parameter,
                   put(gradient), buffer);
      for (size_t i = 0; i < 15; ++i) {
        kept[i] = momentum * kept[i] + factor * gradient.f()[i] + decay * w[i];
        w[i] -= rate * kept[i];
      }
    }
    expect_values(parameter, w, kSumTolerance, fmt::format("momentum {}", momentum));
  }
}

}  // namespace
}  // namespace coppice::contract
