#include "worker/peft/method.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/base/error.h"

namespace coppice {
namespace {

Tensor transposed(const Tensor& tensor) {
  const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
  Tensor out({cols, rows});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) out.values[size_t(c * rows + r)] = tensor.values[size_t(r * cols + c)];
  }
  return out;
}

// A method that says it uses a hook must have it.
[[noreturn]] void hook_is_missing() {
  check_failed(__FILE__, __LINE__, "the method has the hook that its config uses");
}

}  // namespace

int64_t MethodConfig::lowest_layer() const {
  CHECK(!tensors_.empty());
  int64_t lowest = tensors_.front().layer;
  for (const TensorSpec& spec : tensors_) lowest = std::min(lowest, spec.layer);
  return lowest;
}

int64_t MethodConfig::trainable_parameters() const {
  int64_t count = 0;
  for (const TensorSpec& spec : tensors_) count += element_count(spec.shape);
  return count;
}

std::vector<std::pair<std::string, Tensor>> MethodConfig::to_hf(const std::vector<Tensor>& tensors) const {
  CHECK(tensors.size() == tensors_.size());
  std::vector<std::pair<std::string, Tensor>> file;
  for (size_t t = 0; t < tensors.size(); ++t) {
    CHECK(tensors[t].shape == tensors_[t].shape);
    file.emplace_back(tensors_[t].hf_name, tensors_[t].hf_transposed ? transposed(tensors[t]) : tensors[t]);
  }
  return file;
}

std::vector<Tensor> MethodConfig::from_hf(
    const std::function<Tensor(const std::string& hf_name)>& find) const {
  std::vector<Tensor> tensors;
  for (const TensorSpec& spec : tensors_) {
    Shape shape = spec.shape;
    if (spec.hf_transposed) std::reverse(shape.begin(), shape.end());
    Tensor tensor = find(spec.hf_name);
    if (tensor.shape != shape) {
      throw invalid("tensor {} has shape {}; {} is expected", spec.hf_name, shape_string(tensor.shape),
                    shape_string(shape));
    }
    tensors.push_back(spec.hf_transposed ? transposed(tensor) : std::move(tensor));
  }
  return tensors;
}

void Method::token_rows(HookContext&, std::span<const HookUse>, Matrix) const {
  hook_is_missing();
}
void Method::token_rows_backward(HookContext&, std::span<const HookUse>, Matrix) const {
  hook_is_missing();
}
void Method::projection_input(HookContext&, const Module&, std::span<const HookUse>, Matrix) const {
  hook_is_missing();
}
void Method::projection_input_backward(HookContext&, const Module&, std::span<const HookUse>, Matrix,
                                       Matrix) const {
  hook_is_missing();
}
void Method::projection_output(HookContext&, const Module&, std::span<const HookUse>, Matrix, Matrix) const {
  hook_is_missing();
}
void Method::projection_output_backward(HookContext&, const Module&, std::span<const HookUse>, Matrix,
                                        Matrix) const {
  hook_is_missing();
}
Method::KeysValues Method::keys_and_values(const Adapter&, int64_t) const {
  hook_is_missing();
}
void Method::sublayer_output(HookContext&, Sublayer, std::span<const HookUse>, Matrix) const {
  hook_is_missing();
}
void Method::sublayer_output_backward(HookContext&, Sublayer, std::span<const HookUse>, Matrix) const {
  hook_is_missing();
}

}  // namespace coppice
