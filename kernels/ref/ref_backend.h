#pragma once
// The reference device: every operator as plain loops, forward beside backward, one file a family of
// operators. It is the specification of kernels/backend.h, the oracle that the contract tests compare other
// devices with, and the template for a new device. It is written to be read; it is fast enough for tests and
// for nothing else.
//
// Sums of matrix products are float32 in the order of k, those of attention's dot products rounded once a
// term; sums inside norms and losses are double. A task of the pool is one row, or one column, of one item,
// and items go one after another: threads and neighbours can show in no bits.
//
// Thread: compute thread. Errors: kExhausted.

#include <functional>

#include "kernels/host_backend.h"

namespace coppice {

// An element of a matrix that is F32 or BF16, as it is, and written rounded.
inline float element(const Matrix& x, int64_t row, int64_t col) {
  return x.dtype == DType::kF32 ? f32_row(x, row)[col] : from_bf16(bf16_row(x, row)[col]);
}
inline void set_element(const Matrix& x, int64_t row, int64_t col, float value) {
  if (x.dtype == DType::kF32) {
    f32_row(x, row)[col] = value;
  } else {
    bf16_row(x, row)[col] = to_bf16(value);
  }
}

class RefBackend : public HostBackend {
 public:
  explicit RefBackend(ThreadPool& pool) : HostBackend("ref", pool) {}

  std::string name() const override { return "ref"; }
  std::string instruction_set() const override;
  std::optional<std::string> unsupported(DType compute) const override;
  DType natural_dtype() const override { return DType::kF32; }

  // matmul.cc
  std::unique_ptr<FrozenWeight> prepare_weight(const TensorView& weight, DType compute) override;
  size_t weight_bytes(int64_t out, int64_t in, DType) const override {
    return size_t(2 * out * in) * sizeof(float);
  }
  bool keeps_exact(DType, DType compute) const override { return compute == DType::kF32; }
  void linear(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
              std::span<const LowRankItem> beside) override;
  void linear_backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                       std::span<const LowRankItem> beside) override;
  void weight_rows(const FrozenWeight& weight, Matrix indices, Matrix rows) override;
  void grouped_matmul(std::span<const MatmulItem> items, DType compute) override;

  // attention.cc
  void attention(const AttentionShape& shape, std::span<const AttentionItem> items, DType compute) override;
  void attention_backward(const AttentionShape& shape, std::span<const AttentionBackwardItem> items,
                          DType compute) override;
  void rotary(Matrix x, Matrix cos, Matrix sin, int head_dim, bool transposed, Matrix y) override;

  // norm.cc
  void rms_norm(Matrix x, Matrix weight, float epsilon, Matrix y, Matrix inverse_rms) override;
  void rms_norm_backward(Matrix x, Matrix weight, Matrix inverse_rms, Matrix dy, Matrix dx,
                         bool accumulate) override;

  // pointwise.cc
  void gated_activation(Activation f, Matrix gate, Matrix up, Matrix out) override;
  void gated_activation_backward(Activation f, Matrix gate, Matrix up, Matrix dout, Matrix dgate,
                                 Matrix dup) override;
  void activation(Activation f, std::span<const UnaryItem> items) override;
  void activation_backward(Activation f, std::span<const UnaryBackwardItem> items) override;
  void add(std::span<const UnaryItem> items) override;
  void scale_columns(std::span<const ScaleColumnsItem> items) override;
  void scale_columns_backward(std::span<const ScaleColumnsBackwardItem> items) override;
  void add_bias(std::span<const BiasItem> items) override;
  void add_bias_backward(std::span<const BiasItem> items) override;
  void dropout(std::span<const DropoutItem> items) override;
  void gather_rows(std::span<const GatherItem> items) override;
  void scatter_add_rows(std::span<const GatherItem> items) override;

  // loss.cc
  void cross_entropy(Matrix logits, Matrix targets, Matrix loss) override;
  void cross_entropy_with_gradient(Matrix logits, Matrix targets, Matrix weights, Matrix loss,
                                   Matrix gradient) override;

  // update.cc
  void adamw(const AdamWStep& step, Matrix parameter, Matrix gradient, Matrix first_moment,
             Matrix second_moment) override;
  void sgd(const SgdStep& step, Matrix parameter, Matrix gradient, Matrix momentum) override;
  double squared_norm(Matrix x) override;

 private:
  // task(i) for i in [0, count), on the pool.
  template <typename Task>
  void for_each(int64_t count, const Task& task) {
    pool().parallel_for(count, [&task](int64_t i, int) { task(i); });
  }
  // task(i, scratch) with `floats` floats of its thread's own, for what a task needs besides its operands.
  template <typename Task>
  void for_each(int64_t count, int64_t floats, const Task& task) {
    const Buffer buffer = allocate(size_t(pool().threads() * floats) * sizeof(float));
    float* const scratch = reinterpret_cast<float*>(buffer.data());
    const auto run = [&](int64_t i, int worker) { task(i, scratch + worker * floats); };
    pool().parallel_for(count, std::ref(run));
  }
};

std::unique_ptr<Backend> make_ref_backend(ThreadPool& pool);

}  // namespace coppice
