#pragma once
// One device behind one interface: memory, and all arithmetic of the workers. Nothing above this header knows whether a matrix
// lives in host memory; nothing below it knows a job, a layer or a method. kernels/ref is the specification in plain loops,
// kernels/cpu the fast one, and a new device is one more folder with the same file names.
//
// Order: operators are queued in the order they are called and see the results of those before them. They may return before
// the work is done; download() and wait() wait. Spans and host arrays handed over are copied or used before the call returns.
//
// The promise that everything rests on (design, section 4): the bits of a row (of linear, norms, pointwise operators) depend on
// that row alone, whichever rows it travels with and wherever in the matrix it stands; the bits of an item (of grouped operators)
// depend on that item alone. The number of threads shows in no bits. What several items accumulate into the same memory is
// added in the order of the items. The contract tests (tests/contract/backend) hold every backend to it.
//
// Numbers: matrices of rows are F32. `compute` is F32 or BF16: with BF16 the inputs of a matrix product are rounded to
// bfloat16 and its sums are float32. So what goes from one product to the next may be held as BF16 to begin with, rounded by the operator that
// writes it (to nearest, ties to even; a denormal may become zero): where it says "or BF16", at half the memory, and in products
// with the bits that F32 would give. All operators round alike. Parameter gradients accumulate, activation gradients overwrite
// unless they say otherwise.
//
// Thread: all calls from the compute thread. Errors: kExhausted where memory has run out, naming the bytes; wrong shapes are
// programmer errors (CHECK).

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "common/base/thread_pool.h"
#include "common/tensor/tensor.h"

namespace coppice {

class Backend;

// A borrowed, row-major matrix in device memory. data is a device address: above this layer it is never dereferenced.
struct Matrix {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next

  bool empty() const { return data == nullptr; }
  int64_t size() const { return rows * cols; }
  Matrix row_range(int64_t begin, int64_t count) const;
  Matrix column_range(int64_t begin, int64_t count) const;
  Matrix reshaped(int64_t new_rows, int64_t new_cols) const;  // needs stride == cols
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

// The memory of an F32 matrix as a BF16 one, each row where its row begins.
Matrix as_bfloat16(Matrix f32);

// Owns device memory, aligned to 64 bytes; given back to its backend's pool on destruction. Contents start undefined.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend* backend, std::byte* data, size_t bytes) : backend_(backend), data_(data), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();

  bool empty() const { return data_ == nullptr; }
  size_t bytes() const { return bytes_; }
  std::byte* data() const { return data_; }
  // The first rows * cols elements as a matrix.
  Matrix matrix(int64_t rows, int64_t cols, DType dtype = DType::kF32) const;

 private:
  void swap(Buffer& other) noexcept;
  Backend* backend_ = nullptr;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// A frozen weight W [out, in], packed once for its device: a handle, not an array.
class FrozenWeight {
 public:
  virtual ~FrozenWeight() = default;
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  size_t bytes() const { return bytes_; }  // of device memory it holds
  bool exact() const { return exact_; }    // whether it holds the values that it was given, unrounded

 protected:
  FrozenWeight(int64_t out, int64_t in, size_t bytes) : out_(out), in_(in), bytes_(bytes) {}
  int64_t out_, in_;
  size_t bytes_;
  bool exact_ = false;
};

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };  // HF: silu, gelu, gelu_pytorch_tanh (gelu_new), relu

// c = alpha * op(a) op(b), or c += ... with accumulate. op transposes where asked. c F32; a and b F32, or
// BF16 computed in BF16.
struct MatmulItem {
  Matrix a, b, c;
  bool transpose_a = false;
  bool transpose_b = false;
  float alpha = 1;
  bool accumulate = false;
};

// A product of two thin factors beside a frozen one, for some of its rows: LoRA's (Backend::linear).
struct LowRankItem {
  Matrix down, up;  // [rank, in], [out, rank]
  Matrix inner;     // [its rows, rank]: written
  int64_t row = 0;  // the first of its rows
  float scale = 1;
};

struct UnaryItem {
  Matrix x, y;
};
struct UnaryBackwardItem {
  Matrix x, dy, dx;  // dx may be dy
};
struct ScaleColumnsItem {
  Matrix x, scale, y;  // y = x * scale, scale [1, cols]; y may be x
};
struct ScaleColumnsBackwardItem {  // x F32 or BF16
  Matrix x, scale, dy, dx, dscale;  // dx = dy * scale (may be dy, may be empty); dscale += sum over rows of dy * x
};
struct BiasItem {
  Matrix bias, y;  // forward: y += bias [1, cols]; backward: bias += sum over rows of y, in row order
};
// y = mask * x / (1 - p), or y += ... with accumulate: the same call is its own backward. The mask of feature f in the row with
// ids (sequence, position) is word f % 4 of philox(key, {f / 4, position, sequence, 0}) >= p * 2^32 (rounded to nearest).
struct DropoutItem {
  Matrix x, y;      // x F32 or BF16
  Matrix row_ids;  // I32 [rows, 2]: sequence in the step, position
  uint64_t key = 0;
  float p = 0;
  bool accumulate = false;
};
struct GatherItem {
  Matrix table;    // F32, F16 or BF16 [n, cols]
  Matrix indices;  // I32 [rows, 1], each in [0, n)
  Matrix rows;     // F32 [rows, cols]
};

struct AttentionShape {
  int heads = 0;
  int kv_heads = 0;  // divides heads: query head h reads key head h / (heads / kv_heads)
  int head_dim = 0;
  float scale = 0;
};
// Causal softmax attention of one sequence. Its keys are prefix rows, then k's rows, numbered from 0; the queries are the
// last q.rows of them. A query at number n sees keys m <= n and, with a window, n - m < window (prefix included, as in HF).
struct AttentionItem {
  Matrix q;                   // [queries, heads * head_dim], F32 or BF16
  Matrix k, v;                // [keys, kv_heads * head_dim], keys >= queries, each F32 or BF16
  Matrix prefix_k, prefix_v;  // [prefix, kv_heads * head_dim] or empty
  int64_t window = 0;         // 0: none
  Matrix out;                 // [queries, heads * head_dim], F32 or BF16
  Matrix log_sum;             // [queries, heads]: log of the sum of exponentials, kept for the backward; may be empty
};
struct AttentionBackwardItem {
  AttentionItem forward;  // with out and log_sum as the forward left them; keys == queries
  Matrix dout;                    // F32 or BF16
  Matrix dq, dk, dv;              // overwritten
  Matrix dprefix_k, dprefix_v;    // accumulated; empty where the forward's are
};

struct AdamWStep {
  double learning_rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0;  // in double: 1 - beta2 shows a float's rounding
  double gradient_factor = 1;  // of clipping: applied to the gradient first
  int64_t step = 1;           // from 1
};
struct SgdStep {
  double learning_rate = 0, momentum = 0, weight_decay = 0;
  double gradient_factor = 1;
  int64_t step = 1;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;             // "ref", "cpu"
  virtual std::string instruction_set() const = 0;  // what the bits depend on, e.g. "avx512_bf16"
  // Why this compute dtype cannot be used here; nothing where it can.
  virtual std::optional<std::string> unsupported(DType compute) const = 0;
  // The compute dtype that this device has instructions for, which is what is taken where none was asked for. The same on all
  // devices of one instruction set.
  virtual DType natural_dtype() const = 0;

  // --- memory
  virtual Buffer allocate(size_t bytes) = 0;
  virtual size_t allocated_bytes() const = 0;  // in buffers and weights that are alive
  virtual size_t peak_bytes() const = 0;
  virtual void upload(const void* from, Matrix to) = 0;   // from: to.size() elements, dense
  virtual void download(Matrix from, void* to) = 0;       // waits
  virtual void fill(Matrix x, float value) = 0;
  virtual void wait() = 0;

  // --- matmul
  virtual std::unique_ptr<FrozenWeight> prepare_weight(const TensorView& weight, DType compute) = 0;  // [out, in]
  // Device memory of a weight once it has gone both ways.
  virtual size_t weight_bytes(int64_t out, int64_t in, DType compute) const = 0;
  // Whether a weight whose values are stored so is exact (but for denormals, and what only happens to be).
  virtual bool keeps_exact(DType stored, DType compute) const = 0;
  // y = x W^T + bias;  x [rows, in] and y [rows, out] each F32, or BF16 where W is prepared for BF16, bias F32 [1, out] or empty.
  // Then beside it, for the rows of each item: inner = x down^T, y += scale inner up^T, with the bits of the same two products
  // by grouped_matmul; what is rounded is their sum.
  virtual void linear(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
                      std::span<const LowRankItem> beside = {}) = 0;
  // dx = dy W, or dx += dy W; dy and dx as x and y above, but dx F32 where it is added to. Then beside it:
  // inner = scale dy up, dx += inner down.
  virtual void linear_backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                               std::span<const LowRankItem> beside = {}) = 0;
  // rows[i] = W[indices[i]], of a weight that is exact; indices I32 [rows, 1], each in [0, out), rows F32 [rows, in].
  virtual void weight_rows(const FrozenWeight& weight, Matrix indices, Matrix rows) = 0;
  virtual void grouped_matmul(std::span<const MatmulItem> items, DType compute) = 0;

  // --- attention
  virtual void attention(const AttentionShape& shape, std::span<const AttentionItem> items, DType compute) = 0;
  virtual void attention_backward(const AttentionShape& shape, std::span<const AttentionBackwardItem> items,
                                  DType compute) = 0;
  // x [rows, heads * head_dim], cos and sin [rows, head_dim / 2]: y = (x1 cos - x2 sin, x2 cos + x1 sin), x1 and x2 the halves
  // of a head. transposed: the backward, (x1 cos + x2 sin, x2 cos - x1 sin). y F32, where it may be x, or BF16.
  virtual void rotary(Matrix x, Matrix cos, Matrix sin, int head_dim, bool transposed, Matrix y) = 0;

  // --- norm: y = x * r * weight, r = 1 / sqrt(mean(x^2) + epsilon); y F32 or BF16
  virtual void rms_norm(Matrix x, Matrix weight, float epsilon, Matrix y, Matrix inverse_rms) = 0;
  // dx = r * (g - x * r^2 * mean(g * x)) with g = dy * weight; or dx += ...
  virtual void rms_norm_backward(Matrix x, Matrix weight, Matrix inverse_rms, Matrix dy, Matrix dx,
                                 bool accumulate) = 0;

  // --- pointwise
  // out = f(gate) * up;  backward: dgate = dout * up * f'(gate), dup = dout * f(gate); dgate, dup may be gate, up. All F32 or BF16,
  // gate as up and dgate as dup.
  virtual void gated_activation(Activation f, Matrix gate, Matrix up, Matrix out) = 0;
  virtual void gated_activation_backward(Activation f, Matrix gate, Matrix up, Matrix dout, Matrix dgate,
                                         Matrix dup) = 0;
  virtual void activation(Activation f, std::span<const UnaryItem> items) = 0;                   // y = f(x)
  virtual void activation_backward(Activation f, std::span<const UnaryBackwardItem> items) = 0;  // dx = dy f'(x)
  virtual void copy(std::span<const UnaryItem> items) = 0;                                       // y = x; F32 and BF16 turn into each other
  virtual void add(std::span<const UnaryItem> items) = 0;                                        // y += x
  virtual void scale_columns(std::span<const ScaleColumnsItem> items) = 0;
  virtual void scale_columns_backward(std::span<const ScaleColumnsBackwardItem> items) = 0;
  virtual void add_bias(std::span<const BiasItem> items) = 0;
  virtual void add_bias_backward(std::span<const BiasItem> items) = 0;
  virtual void dropout(std::span<const DropoutItem> items) = 0;
  virtual void gather_rows(std::span<const GatherItem> items) = 0;       // rows[i] = table[indices[i]]
  virtual void scatter_add_rows(std::span<const GatherItem> items) = 0;  // table[indices[i]] += rows[i], i ascending; table F32

  // --- loss: loss[i] = -log softmax(logits[i])[targets[i]]  (targets I32 [rows, 1], loss [rows, 1])
  virtual void cross_entropy(Matrix logits, Matrix targets, Matrix loss) = 0;
  // The same, and gradient[i] = weights[i] * (softmax(logits[i]) - onehot(targets[i])); weights [rows, 1]. The gradient is F32 or
  // BF16 and may stand in the memory of the logits, each row from where theirs begins; they are lost in any case.
  virtual void cross_entropy_with_gradient(Matrix logits, Matrix targets, Matrix weights, Matrix loss,
                                           Matrix gradient) = 0;

  // --- update, in place; as torch.optim.AdamW (2.x, decoupled decay) and torch.optim.SGD (dampening 0, no Nesterov)
  virtual void adamw(const AdamWStep& step, Matrix parameter, Matrix gradient, Matrix first_moment,
                     Matrix second_moment) = 0;
  virtual void sgd(const SgdStep& step, Matrix parameter, Matrix gradient, Matrix momentum) = 0;  // momentum empty when 0
  virtual double squared_norm(Matrix x) = 0;  // in double, in a fixed order; waits

 private:
  friend class Buffer;
  virtual void release(std::byte* data, size_t bytes) = 0;
};

}  // namespace coppice
