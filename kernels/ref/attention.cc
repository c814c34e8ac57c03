// Causal softmax attention, one query of one head at a time, and rotary position embedding.
//
//   s_m = scale * (q . k_m)      p_m = exp(s_m - L),  L = log(sum of exp(s_m))      out = sum of p_m v_m
//
// over the keys m that the query sees. In BF16 the inputs of every product (q, k, v, p, dout, ds) are
// rounded.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/base/check.h"
#include "kernels/ref/ref_backend.h"

namespace coppice {
namespace {

float rounded(float value, DType compute) {
  return compute == DType::kBF16 ? round_to_bf16(value) : value;
}

// One chain, rounded once a term: products are exact, as in a fused multiply-add. Of large scores a softmax
// shows every rounding.
float dot(const float* a, const float* b, int64_t size) {
  float sum = 0;
  for (int64_t i = 0; i < size; ++i) sum = float(sum + double(a[i]) * b[i]);
  return sum;
}

// The rows of first (may be empty), then those of second, dense and rounded.
Buffer stack(Backend& backend, const Matrix& first, const Matrix& second, DType compute) {
  const int64_t prefix = first.empty() ? 0 : first.rows, cols = second.cols;
  CHECK(first.empty() || first.cols == cols);
  Buffer buffer = backend.allocate(size_t((prefix + second.rows) * cols) * sizeof(float));
  const Matrix rows = buffer.matrix(prefix + second.rows, cols);
  for (int64_t r = 0; r < rows.rows; ++r) {
    const Matrix& from = r < prefix ? first : second;
    for (int64_t c = 0; c < cols; ++c)
      f32_row(rows, r)[c] = rounded(element(from, r < prefix ? r : r - prefix, c), compute);
  }
  return buffer;
}

// An item with its operands stacked and rounded, and which keys [first, last] a query sees.
struct Rows {
  Buffer q_buffer, k_buffer, v_buffer;
  Matrix q, k, v;
  int64_t prefix, window;

  Rows(Backend& backend, const AttentionShape& shape, const AttentionItem& item, DType compute)
      : q_buffer(stack(backend, {}, item.q, compute)),
        k_buffer(stack(backend, item.prefix_k, item.k, compute)),
        v_buffer(stack(backend, item.prefix_v, item.v, compute)),
        prefix(item.prefix_k.empty() ? 0 : item.prefix_k.rows),
        window(item.window) {
    CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0);
    CHECK(item.q.cols == int64_t(shape.heads) * shape.head_dim &&
          item.k.cols == int64_t(shape.kv_heads) * shape.head_dim);
    CHECK(item.v.rows == item.k.rows && item.v.cols == item.k.cols && item.k.rows >= item.q.rows);
    CHECK(item.prefix_v.empty() == item.prefix_k.empty() && item.prefix_v.rows == item.prefix_k.rows);
    CHECK(item.out.rows == item.q.rows && item.out.cols == item.q.cols);
    CHECK(item.log_sum.empty() || (item.log_sum.rows == item.q.rows && item.log_sum.cols == shape.heads));
    q = q_buffer.matrix(item.q.rows, item.q.cols);
    k = k_buffer.matrix(prefix + item.k.rows, item.k.cols);
    v = v_buffer.matrix(prefix + item.v.rows, item.v.cols);
  }
  int64_t last(int64_t query) const { return k.rows - q.rows + query; }
  int64_t first(int64_t query) const {
    return window > 0 ? std::max<int64_t>(0, last(query) - window + 1) : 0;
  }
};

}  // namespace

void RefBackend::attention(const AttentionShape& shape, std::span<const AttentionItem> items, DType compute) {
  const int64_t size = shape.head_dim, group = shape.heads / shape.kv_heads;
  for (const AttentionItem& item : items) {
    const Rows rows(*this, shape, item, compute);
    for_each(item.q.rows * shape.heads, rows.k.rows, [&](int64_t task, float* p) {
      const int64_t query = task / shape.heads, head = task % shape.heads, kv = head / group * size;
      const int64_t first = rows.first(query), last = rows.last(query);
      float largest = -std::numeric_limits<float>::infinity();
      for (int64_t m = first; m <= last; ++m) {
        p[m] = shape.scale * dot(f32_row(rows.q, query) + head * size, f32_row(rows.k, m) + kv, size);
        largest = std::max(largest, p[m]);
      }
      double sum = 0;
      for (int64_t m = first; m <= last; ++m) sum += p[m] = std::exp(p[m] - largest);
      std::vector<float> out(static_cast<size_t>(size));
      for (int64_t m = first; m <= last; ++m) {
        const float probability = rounded(float(p[m] / sum), compute);
        for (int64_t d = 0; d < size; ++d) out[size_t(d)] += probability * f32_row(rows.v, m)[kv + d];
      }
      for (int64_t d = 0; d < size; ++d) set_element(item.out, query, head * size + d, out[size_t(d)]);
      if (!item.log_sum.empty()) f32_row(item.log_sum, query)[head] = float(largest + std::log(sum));
    });
  }
}

//   dv_m = sum over queries of p_m dout       dp_m = dout . v_m       ds_m = scale * p_m (dp_m - dout . out)
//   dq = sum over keys of ds_m k_m            dk_m = sum over queries of ds_m q
// A task is one key head: it alone writes those columns of dk and dv, from the queries in order and their
// heads in order. What the prefix receives is summed within the item first, then added.
void RefBackend::attention_backward(const AttentionShape& shape, std::span<const AttentionBackwardItem> items,
                                    DType compute) {
  const int64_t size = shape.head_dim, group = shape.heads / shape.kv_heads;
  for (const AttentionBackwardItem& item : items) {
    const AttentionItem& forward = item.forward;
    const Rows rows(*this, shape, forward, compute);
    CHECK(forward.k.rows == forward.q.rows && !forward.log_sum.empty());
    CHECK(item.dout.rows == forward.q.rows && item.dout.cols == forward.q.cols);
    CHECK(item.dq.rows == forward.q.rows && item.dk.rows == forward.k.rows && item.dv.rows == forward.v.rows);
    CHECK(forward.prefix_k.empty() == item.dprefix_k.empty() &&
          forward.prefix_k.empty() == item.dprefix_v.empty());
    const Buffer dout_buffer = stack(*this, {}, item.dout, compute);
    const Buffer dk_buffer = allocate(rows.k_buffer.bytes()), dv_buffer = allocate(rows.v_buffer.bytes());
    const Matrix dout = dout_buffer.matrix(item.dout.rows, item.dout.cols);
    const Matrix dk = dk_buffer.matrix(rows.k.rows, rows.k.cols),
                 dv = dv_buffer.matrix(rows.v.rows, rows.v.cols);
    fill(dk, 0);
    fill(dv, 0);
    for_each(shape.kv_heads, [&](int64_t kv_head) {
      const int64_t kv = kv_head * size;
      for (int64_t query = 0; query < rows.q.rows; ++query) {
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
          const float* const q = f32_row(rows.q, query) + head * size;
          const float* const g = f32_row(dout, query) + head * size;
          float* const dq = f32_row(item.dq, query) + head * size;
          const float log_sum = f32_row(forward.log_sum, query)[head];
          float g_out = 0;
          for (int64_t c = head * size; c < (head + 1) * size; ++c)
            g_out += element(item.dout, query, c) * element(forward.out, query, c);
          std::fill_n(dq, size, 0.0f);
          for (int64_t m = rows.first(query); m <= rows.last(query); ++m) {
            const float *const k = f32_row(rows.k, m) + kv, *const v = f32_row(rows.v, m) + kv;
            const float p = std::exp(shape.scale * dot(q, k, size) - log_sum);
            const float ds = rounded(shape.scale * p * (dot(g, v, size) - g_out), compute);
            for (int64_t d = 0; d < size; ++d) {
              f32_row(dv, m)[kv + d] += rounded(p, compute) * g[d];
              f32_row(dk, m)[kv + d] += ds * q[d];
              dq[d] += ds * k[d];
            }
          }
        }
      }
    });
    const int64_t prefix = rows.prefix;
    const UnaryItem own[] = {{dk.row_range(prefix, forward.k.rows), item.dk},
                             {dv.row_range(prefix, forward.v.rows), item.dv}};
    copy(own);
    if (prefix > 0) {
      const UnaryItem before[] = {{dk.row_range(0, prefix), item.dprefix_k},
                                  {dv.row_range(0, prefix), item.dprefix_v}};
      add(before);
    }
  }
}

void RefBackend::rotary(Matrix x, Matrix cos, Matrix sin, int head_dim, bool transposed, Matrix y) {
  const int64_t half = head_dim / 2;
  CHECK(head_dim > 0 && head_dim % 2 == 0 && x.cols % head_dim == 0);
  CHECK(cos.rows == x.rows && sin.rows == x.rows && cos.cols == half && sin.cols == half);
  CHECK(y.rows == x.rows && y.cols == x.cols && x.dtype == DType::kF32 && is_float(y.dtype));
  for_each(x.rows, [&](int64_t r) {
    for (int64_t head = 0; head < x.cols; head += head_dim) {
      for (int64_t i = head; i < head + half; ++i) {
        const float x1 = f32_row(x, r)[i], x2 = f32_row(x, r)[i + half];
        const float c = f32_row(cos, r)[i - head], s = f32_row(sin, r)[i - head] * (transposed ? -1 : 1);
        set_element(y, r, i, x1 * c - x2 * s);
        set_element(y, r, i + half, x2 * c + x1 * s);
      }
    }
  });
}

}  // namespace coppice
