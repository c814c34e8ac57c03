// Matrix products. Every one of them is c_ij = sum over k of a_ik b_kj in float32, k ascending, from operands
// that are first packed: transposed where asked, rounded to bfloat16 where the product is computed in BF16.

#include <algorithm>
#include <cstring>

#include "common/base/check.h"
#include "kernels/ref/ref_backend.h"

namespace coppice {
namespace {

float rounded(float value, DType compute) {
  return compute == DType::kBF16 ? round_to_bf16(value) : value;
}

class RefWeight final : public FrozenWeight {
 public:
  RefWeight(int64_t out, int64_t in, DType compute, Buffer values, Buffer transposed)
      : FrozenWeight(out, in, values.bytes() + transposed.bytes()),
        compute_(compute),
        values_(std::move(values)),
        transposed_(std::move(transposed)) {
    exact_ = compute == DType::kF32;
  }

  DType compute() const { return compute_; }
  const float* values() const { return reinterpret_cast<const float*>(values_.data()); }          // [out, in]
  const float* transposed() const { return reinterpret_cast<const float*>(transposed_.data()); }  // [in, out]

 private:
  DType compute_;
  Buffer values_, transposed_;
};

float value_of(const TensorView& view, int64_t i) {
  const std::byte* at = view.bytes.data() + size_t(i) * dtype_size(view.dtype);
  if (view.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return view.dtype == DType::kF16 ? from_f16(bits) : from_bf16(bits);
}

// op(x), dense and rounded.
Buffer pack(Backend& backend, const Matrix& x, bool transpose, DType compute) {
  CHECK(x.dtype == DType::kF32 || (x.dtype == DType::kBF16 && compute == DType::kBF16));
  Buffer packed = backend.allocate(size_t(x.size()) * sizeof(float));
  float* const out = reinterpret_cast<float*>(packed.data());
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      out[transpose ? c * x.rows + r : r * x.cols + c] = rounded(element(x, r, c), compute);
    }
  }
  return packed;
}

const float* floats(const Buffer& buffer) {
  return reinterpret_cast<const float*>(buffer.data());
}

// What compute(F32 rows) writes, to rows of BF16.
template <typename Compute>
void round_rows(Backend& backend, Matrix to, const Compute& compute) {
  const Buffer sums = backend.allocate(size_t(to.size()) * sizeof(float));
  const UnaryItem rounding{sums.matrix(to.rows, to.cols), to};
  compute(rounding.x);
  backend.copy({&rounding, 1});
}

Matrix rows_of(const LowRankItem& item, Matrix rows) {
  return rows.row_range(item.row, item.inner.rows);
}

// One row of a product: emit(j, sum over k of a_k b_kj), with b [depth, cols] dense.
template <typename Emit>
void row_times_matrix(const float* a, const float* b, int64_t depth, int64_t cols, const Emit& emit) {
  constexpr int64_t kColumns = 64;
  for (int64_t begin = 0; begin < cols; begin += kColumns) {
    const int64_t count = std::min(kColumns, cols - begin);
    float sums[kColumns] = {};
    for (int64_t k = 0; k < depth; ++k) {
      const float* const b_row = b + k * cols + begin;
      for (int64_t j = 0; j < count; ++j) sums[j] += a[k] * b_row[j];
    }
    for (int64_t j = 0; j < count; ++j) emit(begin + j, sums[j]);
  }
}

}  // namespace

std::unique_ptr<FrozenWeight> RefBackend::prepare_weight(const TensorView& weight, DType compute) {
  CHECK(weight.shape.size() == 2 && !unsupported(compute));
  CHECK(weight.dtype == DType::kF32 || weight.dtype == DType::kF16 || weight.dtype == DType::kBF16);
  const int64_t out = weight.shape[0], in = weight.shape[1];
  CHECK(weight.bytes.size() == size_t(out * in) * dtype_size(weight.dtype));
  Buffer values = allocate(size_t(out * in) * sizeof(float)), transposed = allocate(values.bytes());
  const Matrix w = values.matrix(out, in), t = transposed.matrix(in, out);
  for_each(out, [&](int64_t o) {
    for (int64_t i = 0; i < in; ++i) {
      f32_row(w, o)[i] = f32_row(t, i)[o] = rounded(value_of(weight, o * in + i), compute);
    }
  });
  return std::make_unique<RefWeight>(out, in, compute, std::move(values), std::move(transposed));
}

// y = x W^T + bias;  inner = x down^T,  y += scale inner up^T
void RefBackend::linear(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
                        std::span<const LowRankItem> beside) {
  const auto& w = static_cast<const RefWeight&>(weight);
  if (y.dtype == DType::kBF16) {
    CHECK(w.compute() == DType::kBF16);
    return round_rows(*this, y, [&](Matrix exact) { linear(weight, x, bias, exact, beside); });
  }
  CHECK(x.cols == w.in() && y.cols == w.out() && x.rows == y.rows && y.dtype == DType::kF32);
  CHECK(bias.empty() || (bias.rows == 1 && bias.cols == w.out()));
  const Buffer rows = pack(*this, x, false, w.compute());
  for_each(x.rows, [&](int64_t r) {
    row_times_matrix(floats(rows) + r * w.in(), w.transposed(), w.in(), w.out(), [&](int64_t j, float sum) {
      f32_row(y, r)[j] = bias.empty() ? sum : sum + f32_row(bias, 0)[j];
    });
  });
  for (const LowRankItem& item : beside) {
    const MatmulItem products[] = {
        {.a = rows_of(item, x), .b = item.down, .c = item.inner, .transpose_b = true},
        {.a = item.inner,
         .b = item.up,
         .c = rows_of(item, y),
         .transpose_b = true,
         .alpha = item.scale,
         .accumulate = true}};
    grouped_matmul(products, w.compute());
  }
}

// dx = dy W  or  dx += dy W;  inner = scale dy up,  dx += inner down
void RefBackend::linear_backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                                 std::span<const LowRankItem> beside) {
  const auto& w = static_cast<const RefWeight&>(weight);
  if (dx.dtype == DType::kBF16) {
    CHECK(w.compute() == DType::kBF16 && !accumulate);
    return round_rows(*this, dx, [&](Matrix exact) { linear_backward(weight, dy, exact, false, beside); });
  }
  CHECK(dy.cols == w.out() && dx.cols == w.in() && dx.rows == dy.rows && dx.dtype == DType::kF32);
  const Buffer rows = pack(*this, dy, false, w.compute());
  for_each(dy.rows, [&](int64_t r) {
    row_times_matrix(floats(rows) + r * w.out(), w.values(), w.out(), w.in(), [&](int64_t j, float sum) {
      float& value = f32_row(dx, r)[j];
      value = accumulate ? value + sum : sum;
    });
  });
  for (const LowRankItem& item : beside) {
    const MatmulItem products[] = {
        {.a = rows_of(item, dy), .b = item.up, .c = item.inner, .alpha = item.scale},
        {.a = item.inner, .b = item.down, .c = rows_of(item, dx), .accumulate = true}};
    grouped_matmul(products, w.compute());
  }
}

void RefBackend::weight_rows(const FrozenWeight& weight, Matrix indices, Matrix rows) {
  const auto& w = static_cast<const RefWeight&>(weight);
  CHECK(w.exact() && indices.dtype == DType::kI32 && indices.rows == rows.rows && rows.cols == w.in());
  for_each(rows.rows, [&](int64_t r) {
    const int64_t index = i32_row(indices, r)[0];
    CHECK(index >= 0 && index < w.out());
    std::copy_n(w.values() + index * w.in(), w.in(), f32_row(rows, r));
  });
}

// c = alpha op(a) op(b)  or  c += alpha op(a) op(b), item after item. Its own backward: da = dc b^T, db = a^T
// dc.
void RefBackend::grouped_matmul(std::span<const MatmulItem> items, DType compute) {
  for (const MatmulItem& item : items) {
    const int64_t rows = item.transpose_a ? item.a.cols : item.a.rows;
    const int64_t depth = item.transpose_a ? item.a.rows : item.a.cols;
    const int64_t cols = item.transpose_b ? item.b.rows : item.b.cols;
    CHECK(depth == (item.transpose_b ? item.b.cols : item.b.rows));
    CHECK(item.c.rows == rows && item.c.cols == cols && item.c.dtype == DType::kF32);
    const Buffer a = pack(*this, item.a, item.transpose_a, compute);
    const Buffer b = pack(*this, item.b, item.transpose_b, compute);
    for_each(rows, [&](int64_t r) {
      row_times_matrix(floats(a) + r * depth, floats(b), depth, cols, [&](int64_t j, float sum) {
        float& value = f32_row(item.c, r)[j];
        value = item.accumulate ? value + item.alpha * sum : item.alpha * sum;
      });
    });
  }
}

}  // namespace coppice
