#pragma once
// A backend that measures another: every operator is handed on, waited for, and its time, arithmetic and
// memory traffic added to what is known of operators of its name. `coppice bench --profile` wraps a device in
// it. The bits are those of the device within; only queues lose their overlap by the waiting.
//
// Counted are multiplications and additions of matrix products and attention (the pairs of query and key that
// are seen), and for all operators the bytes of operands that must be read or written once. Products on
// frozen weights are told apart by their shape, grouped ones by what is transposed.
//
// What counts are steps: nothing before each job's update number warm_up_updates is done, when weights are
// packed and memory is warm, nor after the last update, when what has ended is stored and exported. What
// operators leave of elapsed_seconds() went by between them.
//
// Thread: compute thread. Errors: those of the device.

#include <map>
#include <memory>
#include <string>

#include "kernels/backend.h"

namespace coppice {

struct OperatorProfile {
  int64_t calls = 0;
  double seconds = 0, flops = 0, bytes = 0;

  OperatorProfile& operator+=(const OperatorProfile& more);
};

// What was measured: outlives the backend that writes it. The times of operators are those of the wall, or of
// the processor where by_processor is set: on one thread that is what they would take on an idle machine.
struct Profile {
  bool by_processor = false;
  std::map<std::string, OperatorProfile> operators;
  double began = seconds(), ended = began;

  double seconds() const;  // of the clock in use
  double elapsed_seconds() const { return ended - began; }
};

class ProfiledBackend final : public Backend {
 public:
  ProfiledBackend(std::unique_ptr<Backend> device, int64_t warm_up_updates, Profile& profile)
      : device_(std::move(device)), warm_up_updates_(warm_up_updates), profile_(profile) {}

  std::string name() const override { return device_->name(); }
  std::string instruction_set() const override { return device_->instruction_set(); }
  std::optional<std::string> unsupported(DType compute) const override {
    return device_->unsupported(compute);
  }
  DType natural_dtype() const override { return device_->natural_dtype(); }

  Buffer allocate(size_t bytes) override { return device_->allocate(bytes); }
  size_t allocated_bytes() const override { return device_->allocated_bytes(); }
  size_t peak_bytes() const override { return device_->peak_bytes(); }
  void upload(const void* from, Matrix to) override;
  void download(Matrix from, void* to) override;
  void fill(Matrix x, float value) override;
  void wait() override { device_->wait(); }

  std::unique_ptr<FrozenWeight> prepare_weight(const TensorView& weight, DType compute) override;
  size_t weight_bytes(int64_t out, int64_t in, DType compute) const override {
    return device_->weight_bytes(out, in, compute);
  }
  bool keeps_exact(DType stored, DType compute) const override {
    return device_->keeps_exact(stored, compute);
  }
  void linear(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
              std::span<const LowRankItem> beside) override;
  void linear_backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                       std::span<const LowRankItem> beside) override;
  void weight_rows(const FrozenWeight& weight, Matrix indices, Matrix rows) override;
  void grouped_matmul(std::span<const MatmulItem> items, DType compute) override;

  void attention(const AttentionShape& shape, std::span<const AttentionItem> items, DType compute) override;
  void attention_backward(const AttentionShape& shape, std::span<const AttentionBackwardItem> items,
                          DType compute) override;
  void rotary(Matrix x, Matrix cos, Matrix sin, int head_dim, bool transposed, Matrix y) override;

  void rms_norm(Matrix x, Matrix weight, float epsilon, Matrix y, Matrix inverse_rms) override;
  void rms_norm_backward(Matrix x, Matrix weight, Matrix inverse_rms, Matrix dy, Matrix dx,
                         bool accumulate) override;

  void gated_activation(Activation f, Matrix gate, Matrix up, Matrix out) override;
  void gated_activation_backward(Activation f, Matrix gate, Matrix up, Matrix dout, Matrix dgate,
                                 Matrix dup) override;
  void activation(Activation f, std::span<const UnaryItem> items) override;
  void activation_backward(Activation f, std::span<const UnaryBackwardItem> items) override;
  void copy(std::span<const UnaryItem> items) override;
  void add(std::span<const UnaryItem> items) override;
  void scale_columns(std::span<const ScaleColumnsItem> items) override;
  void scale_columns_backward(std::span<const ScaleColumnsBackwardItem> items) override;
  void add_bias(std::span<const BiasItem> items) override;
  void add_bias_backward(std::span<const BiasItem> items) override;
  void dropout(std::span<const DropoutItem> items) override;
  void gather_rows(std::span<const GatherItem> items) override;
  void scatter_add_rows(std::span<const GatherItem> items) override;

  void cross_entropy(Matrix logits, Matrix targets, Matrix loss) override;
  void cross_entropy_with_gradient(Matrix logits, Matrix targets, Matrix weights, Matrix loss,
                                   Matrix gradient) override;

  void adamw(const AdamWStep& step, Matrix parameter, Matrix gradient, Matrix first_moment,
             Matrix second_moment) override;
  void sgd(const SgdStep& step, Matrix parameter, Matrix gradient, Matrix momentum) override;
  double squared_norm(Matrix x) override;

 private:
  // What one call of an operator costs.
  struct Cost {
    double bytes = 0, flops = 0;
  };
  // Runs call() and adds its time to the operator's.
  template <typename Call>
  void measure(const std::string& name, const Cost& cost, const Call& call);
  void updated(int64_t update);
  void release(std::byte* data, size_t bytes) override;  // never called: buffers are the device's

  std::unique_ptr<Backend> device_;
  int64_t warm_up_updates_;
  Profile& profile_;
  std::map<std::string, OperatorProfile> since_update_;
};

}  // namespace coppice
