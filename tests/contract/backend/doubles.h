#pragma once
// The operators once more in double precision, written from their formulas and sharing no code with
// kernels/ref: what holds the reference itself, and by central differences its backward. Inputs and outputs
// are flat, row-major.

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/backend.h"

namespace coppice::contract {

using Doubles = std::vector<double>;
using Inputs = std::vector<Doubles>;

struct AttentionCase {
  int64_t queries = 0, past = 0, prefix = 0, window = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  double scale = 0;
};

// {q, k, v, prefix_k, prefix_v} -> out; log_sum too where wanted.
Doubles attention_in_double(const AttentionCase& shape, const Inputs& in, Doubles* log_sum = nullptr);
Doubles matmul_in_double(const Doubles& a, const Doubles& b, int64_t rows, int64_t depth, int64_t cols);
// {x, weight} -> y
Doubles rms_norm_in_double(const Inputs& in, int64_t rows, int64_t cols, double epsilon);
double activation_in_double(Activation f, double x);
// {x, cos, sin} -> turned x
Doubles rotary_in_double(const Inputs& in, int64_t rows, int64_t heads, int64_t head_dim);
// {logits} -> loss of each row
Doubles cross_entropy_in_double(const Inputs& in, const std::vector<int32_t>& targets, int64_t rows,
                                int64_t cols);

// The gradient of sum(weights * f(inputs)) by central differences.
Inputs gradients_in_double(const std::function<Doubles(const Inputs&)>& f, const Inputs& inputs,
                           const Doubles& weights);

}  // namespace coppice::contract
