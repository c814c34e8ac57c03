#include "tests/contract/backend/operators.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string>
#include <utility>

#include "common/base/check.h"

namespace coppice::contract {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

void append(std::vector<Operator>& to, std::vector<Operator> more) {
  for (Operator& op : more) to.push_back(std::move(op));
}

std::vector<Operator> in_each_dtype(std::vector<Operator> (*make)(DType)) {
  std::vector<Operator> all;
  for (DType compute : {DType::kF32, DType::kBF16}) append(all, make(compute));
  return all;
}

}  // namespace

std::string family_name(Family family) {
  switch (family) {
    case Family::kMatmul:
      return "matmul";
    case Family::kAttention:
      return "attention";
    case Family::kNorm:
      return "norm";
    case Family::kPointwise:
      return "pointwise";
    case Family::kLoss:
      return "loss";
    case Family::kUpdate:
      return "update";
  }
  CHECK(false);
}

std::vector<Operator> operators(Family family) {
  std::vector<Operator> all;
  switch (family) {
    case Family::kMatmul:
      return in_each_dtype(matmul_operators);
    case Family::kAttention:
      all = in_each_dtype(attention_operators);
      append(all, rotary_operators());
      return all;
    case Family::kNorm:
      return norm_operators();
    case Family::kPointwise:
      all = pointwise_operators();
      append(all, row_moving_operators());
      return all;
    case Family::kLoss:
      return loss_operators();
    case Family::kUpdate:
      return update_operators();
  }
  CHECK(false);
}

Operator rounded(Operator op, std::vector<size_t> operands, double tolerance) {
  op.name += "_rounded";
  for (size_t operand : operands) op.name += "_" + std::to_string(operand);
  op.rounded = std::move(operands);
  op.tolerance = std::max(op.tolerance, tolerance);
  op.flushes_denormals = true;
  return op;
}

Operand row_in(Array array) {
  return {std::move(array), Use::kRowIn};
}
Operand row_out(int64_t rows, int64_t cols) {
  return {filled(rows, cols, kNan), Use::kRowOut};
}
Operand row_inout(Array array) {
  return {std::move(array), Use::kRowInOut};
}
Operand whole_in(Array array) {
  return {std::move(array), Use::kWholeIn};
}
Operand whole_out(int64_t rows, int64_t cols) {
  return {filled(rows, cols, kNan), Use::kWholeOut};
}
Operand whole_inout(Array array) {
  return {std::move(array), Use::kWholeInOut};
}

bool long_tests() {
  const char* const value = std::getenv("COPPICE_TEST_LONG");
  return value != nullptr && std::string_view(value) == "1";
}

std::vector<Size> pointwise_sizes() {
  std::vector<Size> sizes = {{1, 1},  {3, 7},  {2, 8},   {5, 9},    {4, 15},   {1, 16},  {3, 17},
                             {7, 31}, {2, 33}, {65, 64}, {130, 63}, {67, 257}, {3, 513}, {2, 1031}};
  if (long_tests()) sizes.insert(sizes.end(), {{513, 1031}, {1, 100003}, {4099, 5}});
  return sizes;
}

}  // namespace coppice::contract
