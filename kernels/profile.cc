#include "kernels/profile.h"

#include <algorithm>
#include <chrono>
#include <ctime>

#include <fmt/format.h>

#include "common/base/check.h"

namespace coppice {
namespace {

double bytes_of(const Matrix& x) {
  return x.empty() ? 0 : double(x.size()) * double(dtype_size(x.dtype));
}

template <typename... Matrices>
double bytes_of(const Matrix& first, const Matrices&... others) {
  return (bytes_of(first) + ... + bytes_of(others));
}

// The sum over the items of what each moves.
template <typename Item, typename Bytes>
double bytes_of_all(std::span<const Item> items, const Bytes& bytes) {
  double sum = 0;
  for (const Item& item : items) sum += bytes(item);
  return sum;
}

// Pairs of query and key of which the query sees the key.
double seen_pairs(const AttentionItem& item) {
  const int64_t prefix = item.prefix_k.empty() ? 0 : item.prefix_k.rows;
  const int64_t first = prefix + item.k.rows - item.q.rows;
  double pairs = 0;
  for (int64_t query = 0; query < item.q.rows; ++query) {
    const int64_t before = first + query + 1;
    pairs += double(item.window > 0 ? std::min(before, item.window) : before);
  }
  return pairs;
}

double attention_bytes(const AttentionItem& item) {
  return bytes_of(item.q, item.k, item.v, item.prefix_k, item.prefix_v, item.out, item.log_sum);
}

double product_flops(const FrozenWeight& weight, int64_t rows) {
  return 2.0 * double(rows) * double(weight.in()) * double(weight.out());
}
double low_rank_flops(std::span<const LowRankItem> items) {
  double flops = 0;
  for (const LowRankItem& item : items)
    flops += 2.0 * double(item.inner.rows) * double(item.down.size() + item.up.size());
  return flops;
}

// Rows wait in the cache, weights come from memory.
double product_bytes(const FrozenWeight& weight, const Matrix& x, const Matrix& y, bool accumulate) {
  return double(weight.bytes()) + bytes_of(x) + bytes_of(y) * (accumulate ? 2 : 1);
}

}  // namespace

OperatorProfile& OperatorProfile::operator+=(const OperatorProfile& more) {
  calls += more.calls;
  seconds += more.seconds;
  flops += more.flops;
  bytes += more.bytes;
  return *this;
}

double Profile::seconds() const {
  if (by_processor) return double(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename Call>
void ProfiledBackend::measure(const std::string& name, const Cost& cost, const Call& call) {
  const double start = profile_.seconds();
  call();
  device_->wait();
  since_update_[name] += {1, profile_.seconds() - start, cost.flops, cost.bytes};
}

void ProfiledBackend::updated(int64_t update) {
  profile_.ended = profile_.seconds();
  if (update <= warm_up_updates_) {
    profile_.operators.clear();
    profile_.began = profile_.ended;
  } else {
    for (const auto& [name, operators] : since_update_) profile_.operators[name] += operators;
  }
  since_update_.clear();
}

void ProfiledBackend::release(std::byte*, size_t) {
  CHECK(!"a buffer of the device's own");
}

void ProfiledBackend::upload(const void* from, Matrix to) {
  measure("upload", {bytes_of(to)}, [&] { device_->upload(from, to); });
}
void ProfiledBackend::download(Matrix from, void* to) {
  measure("download", {bytes_of(from)}, [&] { device_->download(from, to); });
}
void ProfiledBackend::fill(Matrix x, float value) {
  measure("fill", {bytes_of(x)}, [&] { device_->fill(x, value); });
}

std::unique_ptr<FrozenWeight> ProfiledBackend::prepare_weight(const TensorView& weight, DType compute) {
  std::unique_ptr<FrozenWeight> made;
  measure("prepare_weight", {double(weight.bytes.size())},
          [&] { made = device_->prepare_weight(weight, compute); });
  return made;
}
void ProfiledBackend::linear(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
                             std::span<const LowRankItem> beside) {
  measure(fmt::format("linear {} to {}", weight.in(), weight.out()),
          {product_bytes(weight, x, y, false), product_flops(weight, x.rows) + low_rank_flops(beside)},
          [&] { device_->linear(weight, x, bias, y, beside); });
}
void ProfiledBackend::linear_backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                                      std::span<const LowRankItem> beside) {
  measure(
      fmt::format("linear_backward {} to {}", weight.out(), weight.in()),
      {product_bytes(weight, dy, dx, accumulate), product_flops(weight, dy.rows) + low_rank_flops(beside)},
      [&] { device_->linear_backward(weight, dy, dx, accumulate, beside); });
}
void ProfiledBackend::weight_rows(const FrozenWeight& weight, Matrix indices, Matrix rows) {
  measure("weight_rows", {2 * bytes_of(rows)}, [&] { device_->weight_rows(weight, indices, rows); });
}
void ProfiledBackend::grouped_matmul(std::span<const MatmulItem> items, DType compute) {
  if (items.empty()) return;
  Cost cost;
  for (const MatmulItem& item : items) {
    const int64_t depth = item.transpose_a ? item.a.rows : item.a.cols;
    cost.flops += 2.0 * double(item.c.size()) * double(depth);
    cost.bytes += bytes_of(item.a, item.b, item.c) + (item.accumulate ? bytes_of(item.c) : 0);
  }
  const MatmulItem& first = items.front();
  measure(fmt::format("grouped_matmul c {} a{} b{}", first.accumulate ? "+=" : "=",
                      first.transpose_a ? "'" : "", first.transpose_b ? "'" : ""),
          cost, [&] { device_->grouped_matmul(items, compute); });
}

void ProfiledBackend::attention(const AttentionShape& shape, std::span<const AttentionItem> items,
                                DType compute) {
  Cost cost;
  for (const AttentionItem& item : items) {
    cost.flops += 4.0 * seen_pairs(item) * double(shape.heads) * double(shape.head_dim);
    cost.bytes += attention_bytes(item);
  }
  measure("attention", cost, [&] { device_->attention(shape, items, compute); });
}
void ProfiledBackend::attention_backward(const AttentionShape& shape,
                                         std::span<const AttentionBackwardItem> items, DType compute) {
  Cost cost;
  for (const AttentionBackwardItem& item : items) {
    cost.flops += 10.0 * seen_pairs(item.forward) * double(shape.heads) * double(shape.head_dim);
    cost.bytes += attention_bytes(item.forward) + bytes_of(item.dout, item.dq, item.dk, item.dv);
  }
  measure("attention_backward", cost, [&] { device_->attention_backward(shape, items, compute); });
}
void ProfiledBackend::rotary(Matrix x, Matrix cos, Matrix sin, int head_dim, bool transposed, Matrix y) {
  measure("rotary", {bytes_of(x, y, cos, sin)},
          [&] { device_->rotary(x, cos, sin, head_dim, transposed, y); });
}

void ProfiledBackend::rms_norm(Matrix x, Matrix weight, float epsilon, Matrix y, Matrix inverse_rms) {
  measure("rms_norm", {bytes_of(x, y)}, [&] { device_->rms_norm(x, weight, epsilon, y, inverse_rms); });
}
void ProfiledBackend::rms_norm_backward(Matrix x, Matrix weight, Matrix inverse_rms, Matrix dy, Matrix dx,
                                        bool accumulate) {
  measure("rms_norm_backward", {bytes_of(x, dy, dx) + (accumulate ? bytes_of(dx) : 0)},
          [&] { device_->rms_norm_backward(x, weight, inverse_rms, dy, dx, accumulate); });
}

void ProfiledBackend::gated_activation(Activation f, Matrix gate, Matrix up, Matrix out) {
  measure("gated_activation", {bytes_of(gate, up, out)},
          [&] { device_->gated_activation(f, gate, up, out); });
}
void ProfiledBackend::gated_activation_backward(Activation f, Matrix gate, Matrix up, Matrix dout,
                                                Matrix dgate, Matrix dup) {
  measure("gated_activation_backward", {bytes_of(gate, up, dout, dgate, dup)},
          [&] { device_->gated_activation_backward(f, gate, up, dout, dgate, dup); });
}
void ProfiledBackend::activation(Activation f, std::span<const UnaryItem> items) {
  measure("activation", {bytes_of_all(items, [](const UnaryItem& i) { return bytes_of(i.x, i.y); })},
          [&] { device_->activation(f, items); });
}
void ProfiledBackend::activation_backward(Activation f, std::span<const UnaryBackwardItem> items) {
  measure("activation_backward",
          {bytes_of_all(items, [](const UnaryBackwardItem& i) { return bytes_of(i.x, i.dy, i.dx); })},
          [&] { device_->activation_backward(f, items); });
}
void ProfiledBackend::copy(std::span<const UnaryItem> items) {
  measure("copy", {bytes_of_all(items, [](const UnaryItem& i) { return bytes_of(i.x, i.y); })},
          [&] { device_->copy(items); });
}
void ProfiledBackend::add(std::span<const UnaryItem> items) {
  measure("add", {bytes_of_all(items, [](const UnaryItem& i) { return bytes_of(i.x, i.y, i.y); })},
          [&] { device_->add(items); });
}
void ProfiledBackend::scale_columns(std::span<const ScaleColumnsItem> items) {
  measure("scale_columns",
          {bytes_of_all(items, [](const ScaleColumnsItem& i) { return bytes_of(i.x, i.y); })},
          [&] { device_->scale_columns(items); });
}
void ProfiledBackend::scale_columns_backward(std::span<const ScaleColumnsBackwardItem> items) {
  measure("scale_columns_backward",
          {bytes_of_all(items, [](const ScaleColumnsBackwardItem& i) { return bytes_of(i.x, i.dy, i.dx); })},
          [&] { device_->scale_columns_backward(items); });
}
void ProfiledBackend::add_bias(std::span<const BiasItem> items) {
  measure("add_bias", {bytes_of_all(items, [](const BiasItem& i) { return bytes_of(i.y, i.y); })},
          [&] { device_->add_bias(items); });
}
void ProfiledBackend::add_bias_backward(std::span<const BiasItem> items) {
  measure("add_bias_backward", {bytes_of_all(items, [](const BiasItem& i) { return bytes_of(i.y); })},
          [&] { device_->add_bias_backward(items); });
}
void ProfiledBackend::dropout(std::span<const DropoutItem> items) {
  measure("dropout", {bytes_of_all(items, [](const DropoutItem& i) { return bytes_of(i.x, i.y); })},
          [&] { device_->dropout(items); });
}
void ProfiledBackend::gather_rows(std::span<const GatherItem> items) {
  measure("gather_rows", {bytes_of_all(items, [](const GatherItem& i) { return bytes_of(i.rows, i.rows); })},
          [&] { device_->gather_rows(items); });
}
void ProfiledBackend::scatter_add_rows(std::span<const GatherItem> items) {
  measure("scatter_add_rows",
          {bytes_of_all(items, [](const GatherItem& i) { return bytes_of(i.rows, i.rows, i.rows); })},
          [&] { device_->scatter_add_rows(items); });
}

void ProfiledBackend::cross_entropy(Matrix logits, Matrix targets, Matrix loss) {
  measure("cross_entropy", {bytes_of(logits)}, [&] { device_->cross_entropy(logits, targets, loss); });
}
void ProfiledBackend::cross_entropy_with_gradient(Matrix logits, Matrix targets, Matrix weights, Matrix loss,
                                                  Matrix gradient) {
  measure("cross_entropy_with_gradient", {bytes_of(logits, gradient)},
          [&] { device_->cross_entropy_with_gradient(logits, targets, weights, loss, gradient); });
}

void ProfiledBackend::adamw(const AdamWStep& step, Matrix parameter, Matrix gradient, Matrix first_moment,
                            Matrix second_moment) {
  measure("adamw", {bytes_of(parameter, gradient) + 3 * bytes_of(parameter) + 2 * bytes_of(second_moment)},
          [&] { device_->adamw(step, parameter, gradient, first_moment, second_moment); });
  updated(step.step);
}
void ProfiledBackend::sgd(const SgdStep& step, Matrix parameter, Matrix gradient, Matrix momentum) {
  measure("sgd", {bytes_of(parameter, parameter, gradient) + 2 * bytes_of(momentum)},
          [&] { device_->sgd(step, parameter, gradient, momentum); });
  updated(step.step);
}
double ProfiledBackend::squared_norm(Matrix x) {
  double norm = 0;
  measure("squared_norm", {bytes_of(x)}, [&] { norm = device_->squared_norm(x); });
  return norm;
}

}  // namespace coppice
