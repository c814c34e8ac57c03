// The operators of a device alone, in the shapes of adapters' training: products in GFLOP/s and as a share of
// the ceiling, what is bound by memory in GB/s of the operands that must be read and written. Each is called
// for a tenth of a second; the best call counts, so that a busy machine spoils the figures little. The
// ceiling is what the device reaches in a large product, not what its processor could: small products, whose
// operands stay in the caches, come above it.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <functional>
#include <utility>

#include "common/base/error.h"
#include "common/tensor/tensor.h"
#include "coordinator/cli/bench.h"

namespace coppice {
namespace {

constexpr long long kCeilingSize = 2048;  // rows, inputs and outputs
constexpr double kCeiling_s = 0.5;        // of calls at least: the clock of the processor has settled

double now(bool by_processor) {
  if (by_processor) return double(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct BenchRows {
  Buffer buffer;
  Matrix rows;
  operator Matrix() const { return rows; }
};

class KernelBench {
 public:
  KernelBench(Backend& backend, DType compute, bool by_processor)
      : backend_(backend),
        compute_(compute),
        ceiling_(measure_ceiling(backend, compute, by_processor)),
        by_processor_(by_processor) {
    std::printf(
        "%s (%s), %s: ceiling %.0f GFLOP/s (the best product of %lld rows, %lld to %lld; shares are of that, "
        "and operands that stay in the caches may exceed it)\n",
        backend.name().c_str(), backend.instruction_set().c_str(), std::string(dtype_name(compute)).c_str(),
        ceiling_, kCeilingSize, kCeilingSize, kCeilingSize);
  }
  void run();

 private:
  BenchRows make(int64_t rows, int64_t cols) {
    BenchRows made{backend_.allocate(size_t(rows * cols) * sizeof(float)), {}};
    made.rows = made.buffer.matrix(rows, cols);
    std::vector<float> values(size_t(rows * cols));
    uint32_t state = 1;
    for (float& value : values) value = float((state = state * 1664525 + 1013904223) >> 8) * 0x1p-23f - 1;
    backend_.upload(values.data(), made.rows);
    return made;
  }
  // What goes from one product to the next, in their dtype.
  BenchRows make_operand(int64_t rows, int64_t cols) {
    BenchRows exact = make(rows, cols);
    if (compute_ == DType::kF32) return exact;
    BenchRows made{backend_.allocate(size_t(rows * cols) * dtype_size(compute_)), {}};
    made.rows = made.buffer.matrix(rows, cols, compute_);
    const UnaryItem rounding{exact.rows, made.rows};
    backend_.copy({&rounding, 1});
    return made;
  }
  std::unique_ptr<FrozenWeight> make_weight(int64_t out, int64_t in) {
    Tensor values({out, in});
    uint32_t state = 7;
    for (float& value : values.values) value = float((state = state * 1664525 + 1013904223) >> 8) * 0x1p-28f;
    return backend_.prepare_weight(values.view(), compute_);
  }
  // Seconds of the best call, after one that warms up.
  double best_seconds(const std::function<void()>& call) {
    call();
    backend_.wait();
    double best = 1e9, spent = 0;
    for (int calls = 0; spent < 0.1 || calls < 3; ++calls) {
      const double start = now(by_processor_);
      call();
      backend_.wait();
      const double seconds = now(by_processor_) - start;
      best = std::min(best, seconds);
      spent += seconds;
    }
    return best;
  }
  void product(const std::string& name, double flops, const std::function<void()>& call) {
    const double seconds = best_seconds(call);
    std::printf("%-48s %10.1f us %8.1f GFLOP/s %5.2f\n", name.c_str(), seconds * 1e6, flops / seconds * 1e-9,
                flops / seconds * 1e-9 / ceiling_);
  }
  void memory(const std::string& name, double bytes, const std::function<void()>& call) {
    const double seconds = best_seconds(call);
    std::printf("%-48s %10.1f us %8.1f GB/s\n", name.c_str(), seconds * 1e6, bytes / seconds * 1e-9);
  }

  void projections();
  void adapters();
  void attention(int64_t sequences, int64_t length, int64_t heads, int64_t kv_heads, int64_t size);
  void decoding(const std::string& name, int64_t hidden, int64_t inner, int64_t layers, int64_t vocabulary);
  void norms_and_activations();
  void losses();
  void updates();

  Backend& backend_;
  DType compute_;
  double ceiling_;
  bool by_processor_;
};

void KernelBench::projections() {
  constexpr int64_t kShapes[][2] = {{256, 256},  {256, 704},  {256, 4096}, {768, 768},
                                    {768, 2048}, {2048, 768}, {768, 32000}};
  for (const auto& [in, out] : kShapes) {
    for (int64_t rows : {1, 8, 300, 2048}) {
      if (rows * out > 40'000'000) continue;
      const auto weight = make_weight(out, in);
      const auto x = make(rows, in), y = make(rows, out);
      const std::string shape = fmt::format("{} rows, {} to {}", rows, in, out);
      const double flops = 2.0 * double(rows * in * out);
      product("linear " + shape, flops, [&] { backend_.linear(*weight, x, {}, y); });
      if (rows < 300) continue;
      product("linear_backward " + shape, flops, [&] { backend_.linear_backward(*weight, y, x, true); });
    }
  }
}

// The products of one LoRA module, for several segments of as many rows.
void KernelBench::adapters() {
  struct Kind {
    const char* name;
    bool into_rank, transpose_a, transpose_b, accumulate;
  };
  constexpr Kind kKinds[] = {
      {"h = x A'", true, false, true, false},    {"y += h B'", false, false, true, true},
      {"dh = dy B", true, false, false, false},  {"dx += dh A", false, false, false, true},
      {"dA += dh' x", false, true, false, true}, {"dB += dy' h", true, true, false, true}};
  constexpr int64_t kCases[][4] = {
      {1, 512, 768, 16}, {16, 128, 768, 16}, {1, 2048, 2048, 16}, {16, 128, 256, 8}, {8, 256, 2048, 64}};
  for (const auto& [jobs, rows, size, rank] : kCases) {
    for (const Kind& kind : kKinds) {
      const auto wide = make(jobs * rows, size), thin = make(jobs * rows, rank);
      const auto factor = make(jobs * rank, size), column = make(jobs * size, rank);
      std::vector<MatmulItem> items;
      for (int64_t job = 0; job < jobs; ++job) {
        const Matrix w = wide.rows.row_range(job * rows, rows), t = thin.rows.row_range(job * rows, rows);
        const Matrix a = factor.rows.row_range(job * rank, rank), b = column.rows.row_range(job * size, size);
        Matrix left = kind.into_rank ? w : t, right, result;
        if (kind.transpose_a) {
          right = kind.into_rank ? t : w;
          result = kind.into_rank ? b : a;
        } else {
          right = kind.into_rank == kind.transpose_b ? a : b;
          result = kind.into_rank ? t : w;
        }
        items.push_back({left, right, result, kind.transpose_a, kind.transpose_b, 1e-3f, kind.accumulate});
      }
      product(fmt::format("grouped_matmul {}, {} x {} rows, {}, r {}", kind.name, jobs, rows, size, rank),
              2.0 * double(jobs * rows * size * rank), [&] { backend_.grouped_matmul(items, compute_); });
    }
  }
}

void KernelBench::attention(int64_t sequences, int64_t length, int64_t heads, int64_t kv_heads,
                            int64_t size) {
  const AttentionShape shape = {int(heads), int(kv_heads), int(size), 1 / std::sqrt(float(size))};
  const int64_t rows = sequences * length, width = heads * size, kv = kv_heads * size;
  const auto q = make_operand(rows, width), out = make_operand(rows, width), dout = make_operand(rows, width),
             k = make_operand(rows, kv), v = make_operand(rows, kv);
  const auto dq = make(rows, width), log_sum = make(rows, heads);
  const auto dk = make(rows, kv), dv = make(rows, kv);
  std::vector<AttentionItem> items;
  std::vector<AttentionBackwardItem> backwards;
  for (int64_t s = 0; s < sequences; ++s) {
    const auto part = [&](const Matrix& x) { return x.row_range(s * length, length); };
    items.push_back({part(q), part(k), part(v), {}, {}, 0, part(out), part(log_sum)});
    backwards.push_back({items.back(), part(dout), part(dq), part(dk), part(dv), {}, {}});
  }
  const double flops = double(length) * double(length + 1) / 2 * double(sequences * heads * size);
  const std::string name =
      fmt::format("{} x {}, {} heads on {} of {}", sequences, length, heads, kv_heads, size);
  product("attention " + name, 4 * flops, [&] { backend_.attention(shape, items, compute_); });
  product("attention_backward " + name, 10 * flops,
          [&] { backend_.attention_backward(shape, backwards, compute_); });
}

// All frozen projections that one token goes through.
void KernelBench::decoding(const std::string& name, int64_t hidden, int64_t inner, int64_t layers,
                           int64_t vocabulary) {
  std::vector<std::unique_ptr<FrozenWeight>> weights;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (int i = 0; i < 4; ++i) weights.push_back(make_weight(hidden, hidden));
    for (int i = 0; i < 2; ++i) weights.push_back(make_weight(inner, hidden));
    weights.push_back(make_weight(hidden, inner));
  }
  weights.push_back(make_weight(vocabulary, hidden));
  const auto x = make(1, std::max(hidden, inner)), y = make(1, std::max(inner, vocabulary));
  double bytes = 0;
  for (const auto& weight : weights)
    bytes += double(weight->in() * weight->out()) * double(dtype_size(compute_));
  memory("projections of one token, " + name, bytes, [&] {
    for (const auto& weight : weights) {
      backend_.linear(*weight, x.rows.column_range(0, weight->in()), {},
                      y.rows.column_range(0, weight->out()));
    }
  });
}

constexpr int64_t kRows = 2048, kCols = 2048;
constexpr double kPass = double(kRows * kCols) * sizeof(float);

void KernelBench::norms_and_activations() {
  const auto x = make(kRows, kCols), y = make(kRows, kCols), z = make(kRows, kCols), dx = make(kRows, kCols),
             dy = make(kRows, kCols), weight = make(1, kCols), sums = make(1, kCols),
             inverse = make(kRows, 1);
  const auto gate = make_operand(kRows, kCols), up = make_operand(kRows, kCols),
             product = make_operand(kRows, kCols), dgate = make_operand(kRows, kCols),
             dup = make_operand(kRows, kCols);
  for (const auto& [f, name] : {std::pair(Activation::kSilu, "silu"),
                                {Activation::kGelu, "gelu"},
                                {Activation::kGeluTanh, "gelu_tanh"}}) {
    memory(fmt::format("gated_activation {}", name), 3 * double(gate.buffer.bytes()),
           [&, f = f] { backend_.gated_activation(f, gate, up, product); });
    memory(fmt::format("gated_activation_backward {}", name), 5 * double(gate.buffer.bytes()),
           [&, f = f] { backend_.gated_activation_backward(f, gate, up, product, dgate, dup); });
  }
  memory("copy", 2 * kPass, [&] { backend_.copy(std::vector<UnaryItem>{{x, y}}); });
  memory("add", 3 * kPass, [&] { backend_.add(std::vector<UnaryItem>{{x, y}}); });
  memory("fill", kPass, [&] { backend_.fill(z, 0); });
  const auto written = make_operand(kRows, kCols);
  const double to_written = kPass + double(written.buffer.bytes());
  memory("rms_norm", to_written, [&] { backend_.rms_norm(x, weight, 1e-5f, written, inverse); });
  memory("rms_norm_backward", 4 * kPass,
         [&] { backend_.rms_norm_backward(x, weight, inverse, dy, dx, true); });
  const auto cos = make(kRows, 32), sin = make(kRows, 32), ids = make(kRows, 2);
  memory("rotary", to_written, [&] { backend_.rotary(x, cos, sin, 64, false, written); });
  Matrix words = ids;
  words.dtype = DType::kI32;
  memory("dropout", 2 * kPass, [&] {
    backend_.dropout(std::vector<DropoutItem>{{x, y, words, 42, 0.1f, false}});
  });
  memory("scale_columns_backward", 3 * kPass, [&] {
    backend_.scale_columns_backward(std::vector<ScaleColumnsBackwardItem>{{x, weight, dy, dx, sums}});
  });
}

void KernelBench::losses() {
  constexpr int64_t kLossRows = 256, kVocabulary = 32000;
  constexpr double kLossPass = double(kLossRows * kVocabulary) * sizeof(float);
  const auto logits = make(kLossRows, kVocabulary), weights = make(kLossRows, 1), loss = make(kLossRows, 1);
  Matrix targets = loss;
  const auto numbers = make(kLossRows, 1);
  backend_.fill(numbers, 0);
  targets = numbers;
  targets.dtype = DType::kI32;
  memory("cross_entropy", kLossPass, [&] { backend_.cross_entropy(logits, targets, loss); });
  const Matrix gradient = compute_ == DType::kF32 ? Matrix(logits) : as_bfloat16(logits);
  memory("cross_entropy_with_gradient", kLossPass + double(gradient.size()) * double(dtype_size(compute_)),
         [&] { backend_.cross_entropy_with_gradient(logits, targets, weights, loss, gradient); });
}

void KernelBench::updates() {
  const auto w = make(kRows, kCols), g = make(kRows, kCols), m = make(kRows, kCols), v = make(kRows, kCols);
  backend_.fill(v, 1);
  memory("adamw", 7 * kPass, [&] { backend_.adamw({1e-3, 0.9, 0.999, 1e-8, 0.01, 1, 3}, w, g, m, v); });
  double sum = 0;
  memory("squared_norm", kPass, [&] { sum += backend_.squared_norm(g); });
}

void KernelBench::run() {
  projections();
  adapters();
  attention(8, 256, 8, 4, 32);
  attention(4, 512, 12, 12, 64);
  attention(1, 2048, 12, 4, 64);
  attention(16, 128, 12, 12, 64);
  attention(2, 1024, 8, 2, 128);
  decoding("7 M", 256, 704, 8, 4096);
  decoding("110 M", 768, 2048, 12, 32000);
  norms_and_activations();
  losses();
  updates();
}

}  // namespace

double measure_ceiling(Backend& backend, DType compute, bool by_processor) {
  constexpr int64_t kSize = kCeilingSize;
  Tensor values({kSize, kSize});
  uint32_t state = 7;
  for (float& value : values.values) value = float((state = state * 1664525 + 1013904223) >> 8) * 0x1p-28f;
  const auto weight = backend.prepare_weight(values.view(), compute);
  const Buffer buffer = backend.allocate(size_t(2 * kSize * kSize) * sizeof(float));
  const Matrix both = buffer.matrix(2 * kSize, kSize);
  const Matrix x = both.row_range(0, kSize), y = both.row_range(kSize, kSize);
  backend.upload(values.values.data(), x);
  double best = 1e9, spent = 0;
  for (int calls = 0; spent < kCeiling_s || calls < 8; ++calls) {
    const double start = now(by_processor);
    backend.linear(*weight, x, {}, y);
    backend.wait();
    const double seconds = now(by_processor) - start;
    best = std::min(best, seconds);
    spent += seconds;
  }
  return 2.0 * double(kSize) * double(kSize) * double(kSize) / best * 1e-9;
}

void bench_kernels(const ComputeOptions& compute) {
  Device device(compute);
  KernelBench(*device.backend, device.compute, device.pool.threads() == 1).run();
}

}  // namespace coppice
