// Norms, losses and updates.

#include <cmath>

#include "tests/contract/backend/operators.h"
#include "tests/contract/backend/tolerance.h"

namespace coppice::contract {
namespace {

constexpr float kEpsilon = 1e-6f;

std::vector<Size> norm_sizes() {
  std::vector<Size> sizes = pointwise_sizes();
  sizes.insert(sizes.end(), {{3, 2048}, {129, 128}});
  return sizes;
}

std::vector<Size> vocabularies() {
  std::vector<Size> sizes = {{1, 1}, {3, 7}, {2, 8}, {5, 9}, {7, 17}, {65, 33}, {3, 1000}, {2, 32003}};
  if (long_tests()) sizes.insert(sizes.end(), {{130, 32000}, {3, 151936}});
  return sizes;
}

Array inverse_rms(const Array& x) {
  Array result(x.rows, 1);
  for (int64_t r = 0; r < x.rows; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < x.cols; ++c) sum += double(x.at(r, c)) * x.at(r, c);
    result.at(r, 0) = float(1 / std::sqrt(sum / double(x.cols) + kEpsilon));
  }
  return result;
}

Operator rms_norm_backward(bool accumulate) {
  Operator op;
  op.name = accumulate ? "rms_norm_backward_accumulate" : "rms_norm_backward";
  op.sizes = norm_sizes();
  op.make = [=](Size size, Random& random) -> Item {
    const Array x = uniform(size.rows, size.cols, random, 3);
    return {row_in(x), row_in(uniform(size.rows, size.cols, random)),
            accumulate ? row_inout(uniform(size.rows, size.cols, random)) : row_out(size.rows, size.cols),
            row_in(inverse_rms(x)), whole_in(uniform(1, size.cols, random))};
  };
  op.run = [=](Backend& backend, std::span<const Placed> items) {
    const Placed& item = items[0];
    backend.rms_norm_backward(item[0], item[4], item[3], item[1], item[2], accumulate);
  };
  op.tolerance = kSumTolerance;
  return op;
}

Operator adamw(const std::string& name, const AdamWStep& step) {
  Operator op;
  op.name = name;
  op.sizes = pointwise_sizes();
  op.make = [](Size size, Random& random) -> Item {
    Array second = uniform(size.rows, size.cols, random);
    for (int64_t i = 0; i < second.size(); ++i) second.f()[i] = std::abs(second.f()[i]);
    return {row_in(uniform(size.rows, size.cols, random)), row_inout(uniform(size.rows, size.cols, random)),
            row_inout(uniform(size.rows, size.cols, random)), row_inout(second)};
  };
  op.run = [=](Backend& backend, std::span<const Placed> items) {
    backend.adamw(step, items[0][1], items[0][0], items[0][2], items[0][3]);
  };
  op.tolerance = kSumTolerance;
  return op;
}

Operator sgd(const std::string& name, const SgdStep& step) {
  Operator op;
  op.name = name;
  op.sizes = pointwise_sizes();
  op.make = [](Size size, Random& random) -> Item {
    return {row_in(uniform(size.rows, size.cols, random)), row_inout(uniform(size.rows, size.cols, random)),
            row_inout(uniform(size.rows, size.cols, random))};
  };
  op.run = [=](Backend& backend, std::span<const Placed> items) {
    backend.sgd(step, items[0][1], items[0][0], step.momentum == 0 ? Matrix() : items[0][2]);
  };
  op.tolerance = kSumTolerance;
  return op;
}

// The gradient stands in the memory of the logits and comes back from there.
Operator gradient_as_bfloat16() {
  Operator op;
  op.name = "cross_entropy_with_gradient_as_bfloat16";
  op.sizes = vocabularies();
  op.make = [](Size size, Random& random) -> Item {
    return {row_in(uniform(size.rows, size.cols, random, 20)), row_in(indices(size.rows, size.cols, random)),
            row_out(size.rows, 1), row_in(uniform(size.rows, 1, random)), row_out(size.rows, size.cols)};
  };
  op.run = [](Backend& backend, std::span<const Placed> items) {
    const Matrix& logits = items[0][0];
    const Buffer buffer = backend.allocate(size_t(logits.size()) * sizeof(float));
    const Matrix copy = buffer.matrix(logits.rows, logits.cols);
    const UnaryItem there{logits, copy};
    backend.copy({&there, 1});
    const Matrix gradient = as_bfloat16(copy);
    backend.cross_entropy_with_gradient(copy, items[0][1], items[0][3], items[0][2], gradient);
    const UnaryItem back{gradient, items[0][4]};
    backend.copy({&back, 1});
  };
  op.tolerance = kRoundedTolerance;
  op.flushes_denormals = true;
  return op;
}

}  // namespace

std::vector<Operator> norm_operators() {
  Operator op;
  op.name = "rms_norm";
  op.sizes = norm_sizes();
  op.make = [](Size size, Random& random) -> Item {
    return {row_in(uniform(size.rows, size.cols, random, 3)), row_out(size.rows, size.cols),
            row_out(size.rows, 1), whole_in(uniform(1, size.cols, random))};
  };
  op.run = [](Backend& backend, std::span<const Placed> items) {
    backend.rms_norm(items[0][0], items[0][3], kEpsilon, items[0][1], items[0][2]);
  };
  op.tolerance = kSumTolerance;
  return {op, rounded(op, {1}, kRoundedTolerance), rms_norm_backward(false), rms_norm_backward(true)};
}

std::vector<Operator> loss_operators() {
  Operator op;
  op.name = "cross_entropy";
  op.sizes = vocabularies();
  op.make = [](Size size, Random& random) -> Item {
    return {row_in(uniform(size.rows, size.cols, random, 20)), row_in(indices(size.rows, size.cols, random)),
            row_out(size.rows, 1)};
  };
  op.run = [](Backend& backend, std::span<const Placed> items) {
    backend.cross_entropy(items[0][0], items[0][1], items[0][2]);
  };
  op.tolerance = kSumTolerance;
  Operator gradient = op;
  gradient.name = "cross_entropy_with_gradient";
  gradient.make = [](Size size, Random& random) -> Item {
    return {row_inout(uniform(size.rows, size.cols, random, 20)),
            row_in(indices(size.rows, size.cols, random)), row_out(size.rows, 1),
            row_in(uniform(size.rows, 1, random))};
  };
  gradient.run = [](Backend& backend, std::span<const Placed> items) {
    backend.cross_entropy_with_gradient(items[0][0], items[0][1], items[0][3], items[0][2], items[0][0]);
  };
  return {op, gradient, gradient_as_bfloat16()};
}

std::vector<Operator> update_operators() {
  AdamWStep first{1e-3, 0.9, 0.999, 1e-8, 0.01, 1, 1};
  AdamWStep later{1e-2, 0.8, 0.95, 1e-6, 0, 0.37, 1234};
  return {adamw("adamw_first_step", first), adamw("adamw_later_step", later), sgd("sgd", {0.1, 0, 0, 1, 1}),
          sgd("sgd_momentum_first_step", {0.1, 0.9, 0.01, 0.5, 1}),
          sgd("sgd_momentum_later_step", {0.1, 0.9, 0.01, 0.5, 7})};
}

}  // namespace coppice::contract
