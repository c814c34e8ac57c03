#include "tests/contract/backend/doubles.h"

#include <cmath>
#include <numbers>

namespace coppice::contract {

// The whole S x S matrix, with a mask, as the textbook has it.
Doubles attention_in_double(const AttentionCase& shape, const Inputs& in, Doubles* log_sum) {
  const int64_t keys = shape.prefix + shape.past + shape.queries, size = shape.head_dim;
  const int64_t width = shape.heads * size, kv_width = shape.kv_heads * size;
  Doubles all_k = in[3], all_v = in[4], out(size_t(shape.queries * width));
  all_k.insert(all_k.end(), in[1].begin(), in[1].end());
  all_v.insert(all_v.end(), in[2].begin(), in[2].end());
  if (log_sum != nullptr) log_sum->assign(size_t(shape.queries * shape.heads), 0);
  for (int64_t h = 0; h < shape.heads; ++h) {
    const int64_t kv = h / (shape.heads / shape.kv_heads);
    for (int64_t i = 0; i < shape.queries; ++i) {
      const int64_t n = shape.prefix + shape.past + i;
      Doubles weight(static_cast<size_t>(keys));
      double sum = 0;
      for (int64_t m = 0; m < keys; ++m) {
        if (m > n || (shape.window > 0 && n - m >= shape.window)) continue;
        double score = 0;
        for (int64_t d = 0; d < size; ++d) {
          score += in[0][size_t(i * width + h * size + d)] * all_k[size_t(m * kv_width + kv * size + d)];
        }
        sum += weight[size_t(m)] = std::exp(shape.scale * score);
      }
      for (int64_t d = 0; d < size; ++d) {
        double value = 0;
        for (int64_t m = 0; m < keys; ++m)
          value += weight[size_t(m)] / sum * all_v[size_t(m * kv_width + kv * size + d)];
        out[size_t(i * width + h * size + d)] = value;
      }
      if (log_sum != nullptr) (*log_sum)[size_t(i * shape.heads + h)] = std::log(sum);
    }
  }
  return out;
}

Doubles matmul_in_double(const Doubles& a, const Doubles& b, int64_t rows, int64_t depth, int64_t cols) {
  Doubles c(size_t(rows * cols));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      for (int64_t k = 0; k < depth; ++k)
        c[size_t(i * cols + j)] += a[size_t(i * depth + k)] * b[size_t(k * cols + j)];
    }
  }
  return c;
}

Doubles rms_norm_in_double(const Inputs& in, int64_t rows, int64_t cols, double epsilon) {
  Doubles y(in[0].size());
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0;
    for (int64_t c = 0; c < cols; ++c) mean += std::pow(in[0][size_t(r * cols + c)], 2) / double(cols);
    for (int64_t c = 0; c < cols; ++c) {
      y[size_t(r * cols + c)] = in[0][size_t(r * cols + c)] / std::sqrt(mean + epsilon) * in[1][size_t(c)];
    }
  }
  return y;
}

double activation_in_double(Activation f, double x) {
  switch (f) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return x * std::erfc(-x / std::numbers::sqrt2) / 2;
    case Activation::kGeluTanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * std::pow(x, 3))));
    case Activation::kRelu:
      return std::max(x, 0.0);
  }
  return NAN;
}

// A turn of (x1, x2) as the complex number x1 + i x2 times cos + i sin.
Doubles rotary_in_double(const Inputs& in, int64_t rows, int64_t heads, int64_t head_dim) {
  Doubles y(in[0].size());
  const int64_t half = head_dim / 2;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t h = 0; h < heads; ++h) {
      const size_t first = size_t((r * heads + h) * head_dim);
      for (int64_t i = 0; i < half; ++i) {
        const double cos = in[1][size_t(r * half + i)], sin = in[2][size_t(r * half + i)];
        const double x1 = in[0][first + size_t(i)], x2 = in[0][first + size_t(half + i)];
        y[first + size_t(i)] = x1 * cos - x2 * sin;
        y[first + size_t(half + i)] = x1 * sin + x2 * cos;
      }
    }
  }
  return y;
}

Doubles cross_entropy_in_double(const Inputs& in, const std::vector<int32_t>& targets, int64_t rows,
                                int64_t cols) {
  Doubles loss(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    const double* const logits = &in[0][size_t(r * cols)];
    double sum = 0;
    for (int64_t c = 0; c < cols; ++c) sum += std::exp(logits[c] - logits[targets[size_t(r)]]);
    loss[size_t(r)] = std::log(sum);
  }
  return loss;
}

Inputs gradients_in_double(const std::function<Doubles(const Inputs&)>& f, const Inputs& inputs,
                           const Doubles& weights) {
  constexpr double kStep = 1e-5;
  const auto objective = [&](const Inputs& at) {
    const Doubles y = f(at);
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += weights[i] * y[i];
    return sum;
  };
  Inputs gradients = inputs, at = inputs;
  for (size_t n = 0; n < inputs.size(); ++n) {
    for (size_t i = 0; i < inputs[n].size(); ++i) {
      at[n][i] = inputs[n][i] + kStep;
      const double above = objective(at);
      at[n][i] = inputs[n][i] - kStep;
      gradients[n][i] = (above - objective(at)) / (2 * kStep);
      at[n][i] = inputs[n][i];
    }
  }
  return gradients;
}

}  // namespace coppice::contract
