#pragma once
// The fast device in host memory: kernels that are compiled for each instruction set and chosen when the
// program starts (instruction_set.h). The operators stand in the same files as those of kernels/ref, which
// says what each computes; here stand the ways of doing it fast with the promised bits:
//
// - matmul.cc      products run in blocks of c through gemm-inl.h or bf16_gemm.h, whose elements do not know
//                  their tile (panel_linear.h, grouped_matmul.cc).
// - attention.cc   and attention_backward.cc: tiles of queries and keys; a task is one key head of one item.
// - the others     a task is a block of rows, or of columns where rows are summed.
//
// Items of one call that write the same memory are found by plan_blocks() and done by one task in their
// order.
//
// Thread: compute thread. Errors: kExhausted; kUnsupported from make_cpu_backend() on a processor without
// AVX2.

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "kernels/cpu/blocks.h"
#include "kernels/host_backend.h"

namespace coppice {

struct HeadTask;
class PanelLinear;

class CpuBackend final : public HostBackend {
 public:
  explicit CpuBackend(ThreadPool& pool);
  ~CpuBackend() override;

  std::string name() const override { return "cpu"; }
  std::string instruction_set() const override;
  std::optional<std::string> unsupported(DType compute) const override;
  DType natural_dtype() const override;

  // matmul.cc
  std::unique_ptr<FrozenWeight> prepare_weight(const TensorView& weight, DType compute) override;
  size_t weight_bytes(int64_t out, int64_t in, DType compute) const override;
  bool keeps_exact(DType stored, DType compute) const override;
  void linear(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
              std::span<const LowRankItem> beside) override;
  void linear_backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                       std::span<const LowRankItem> beside) override;
  void weight_rows(const FrozenWeight& weight, Matrix indices, Matrix rows) override;
  // grouped_matmul.cc
  void grouped_matmul(std::span<const MatmulItem> items, DType compute) override;

  // attention.cc, attention_backward.cc
  void attention(const AttentionShape& shape, std::span<const AttentionItem> items, DType compute) override;
  void attention_backward(const AttentionShape& shape, std::span<const AttentionBackwardItem> items,
                          DType compute) override;
  void rotary(Matrix x, Matrix cos, Matrix sin, int head_dim, bool transposed, Matrix y) override;

  // norm.cc
  void rms_norm(Matrix x, Matrix weight, float epsilon, Matrix y, Matrix inverse_rms) override;
  void rms_norm_backward(Matrix x, Matrix weight, Matrix inverse_rms, Matrix dy, Matrix dx,
                         bool accumulate) override;

  // pointwise.cc
  void fill(Matrix x, float value) override;
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
  // task(begin, end) over rows of so many columns, in blocks that are worth a task.
  template <typename Task>
  void for_rows(int64_t rows, int64_t cols, const Task& task) {
    const int64_t block = rows_of_block(cols), count = (rows + block - 1) / block;
    for_each(count, [&](int64_t i) { task(i * block, std::min(rows, (i + 1) * block)); });
  }
  template <typename Piece>
  void for_pieces(const Matrix& x, const Piece& piece);  // update.cc
  // run(item, block) for every block of every item's output, those that share memory in the order of the
  // items.
  template <typename Item, typename Output, typename Run>
  void for_blocks(std::span<const Item> items, Cut cut, const Output& output, const Run& run) {
    std::vector<Matrix> outputs;
    outputs.reserve(items.size());
    for (const Item& item : items) outputs.push_back(output(item));
    const BlockPlan plan = plan_blocks(outputs, cut);
    for_each(int64_t(plan.tasks.size()), [&](int64_t i) {
      plan.run(i, outputs, [&](int64_t item, const Block& block) { run(items[size_t(item)], block); });
    });
  }

  // attention.cc: run(task, scratch of floats(task) floats) for each task.
  void run_attention(std::span<const HeadTask> tasks, int64_t (*floats)(const HeadTask&),
                     void (*run)(const HeadTask&, float*));

  std::unique_ptr<PanelLinear> panels_;
};

// pool outlives the backend.
std::unique_ptr<Backend> make_cpu_backend(ThreadPool& pool);

}  // namespace coppice
