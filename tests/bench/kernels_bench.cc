// How fast the operators of the cpu backend are, in the shapes of adapters' training. Products in GFLOP/s and
// as a share of the ceiling: a frozen projection of 2048 x 2048 on 2048 rows, measured first in the same
// process, with the same threads and dtype. What is bound by memory in GB/s of the operands that must be read
// and written.
//
// With one thread times are those of the processor, so that a busy machine spoils them little; with more, of
// the clock.
//
//   kernels_bench [--threads=N] [options of Google Benchmark, e.g. --benchmark_filter=linear]

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <thread>

#include "kernels/registry.h"

namespace coppice {
namespace {

using benchmark::Counter;

class Bench {
 public:
  explicit Bench(int threads) : pool_(threads), backend_(make_backend("cpu", pool_)) {
    std::printf("cpu backend: %s, %d threads\n", backend_->instruction_set().c_str(), threads);
    for (DType compute : {DType::kF32, DType::kBF16}) {
      if (backend_->unsupported(compute)) continue;
      ceiling_[compute] = measure_ceiling(compute);
      std::printf("ceiling %s: %.0f GFLOP/s\n", std::string(dtype_name(compute)).c_str(), ceiling_[compute]);
    }
  }

  int threads() const { return pool_.threads(); }
  Backend& backend() { return *backend_; }
  bool has(DType compute) const { return ceiling_.contains(compute); }

  struct Rows {
    Buffer buffer;
    Matrix rows;
    operator Matrix() const { return rows; }
  };
  Rows make(int64_t rows, int64_t cols, float scale = 1) {
    Rows made{backend_->allocate(size_t(rows * cols) * sizeof(float)), {}};
    made.rows = made.buffer.matrix(rows, cols);
    std::vector<float> values(size_t(rows * cols));
    uint32_t state = 1;
    for (float& value : values)
      value = scale * (float((state = state * 1664525 + 1013904223) >> 8) * 0x1p-23f - 1);
    backend_->upload(values.data(), made.rows);
    return made;
  }
  std::unique_ptr<FrozenWeight> make_weight(int64_t out, int64_t in, DType compute) {
    Tensor values({out, in});
    uint32_t state = 7;
    for (float& value : values.values) value = float((state = state * 1664525 + 1013904223) >> 8) * 0x1p-28f;
    return backend_->prepare_weight(values.view(), compute);
  }

  void report(benchmark::State& state, double flops, DType compute) {
    state.counters["GFLOP/s"] = Counter(flops * 1e-9, Counter::kIsIterationInvariantRate);
    state.counters["share"] = Counter(flops * 1e-9 / ceiling_[compute], Counter::kIsIterationInvariantRate);
  }

 private:
  double now() const {
    if (pool_.threads() == 1) return double(std::clock()) / CLOCKS_PER_SEC;
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  double measure_ceiling(DType compute) {
    constexpr int64_t kSize = 2048;
    const auto weight = make_weight(kSize, kSize, compute);
    const Rows x = make(kSize, kSize), y = make(kSize, kSize);
    double best = 1e9;
    for (int i = 0; i < 8; ++i) {
      const double start = now();
      backend_->linear(*weight, x, {}, y);
      best = std::min(best, now() - start);
    }
    return 2.0 * kSize * kSize * kSize / best * 1e-9;
  }

  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  std::map<DType, double> ceiling_;
};

void add(Bench& bench, const std::string& name, std::function<void(benchmark::State&)> body) {
  auto* const one =
      benchmark::RegisterBenchmark(name.c_str(), std::move(body))->Unit(benchmark::kMicrosecond);
  if (bench.threads() > 1) one->UseRealTime();
}

std::string suffix(DType compute) {
  return compute == DType::kF32 ? "/f32" : "/bf16";
}

void add_linear(Bench& bench, DType compute) {
  constexpr int64_t kShapes[][2] = {{256, 256},  {256, 704},  {256, 4096}, {768, 768},
                                    {768, 2048}, {2048, 768}, {768, 32000}};
  for (const auto& [in, out] : kShapes) {
    for (int64_t rows : {1, 300, 2048}) {
      if (rows * out > 40'000'000) continue;
      const std::string shape = fmt::format("/{}x{}x{}", rows, in, out) + suffix(compute);
      add(bench, "linear" + shape, [&bench, in = in, out = out, rows, compute](benchmark::State& state) {
        const auto weight = bench.make_weight(out, in, compute);
        const auto x = bench.make(rows, in), y = bench.make(rows, out);
        for (auto _ : state) bench.backend().linear(*weight, x, {}, y);
        bench.report(state, 2.0 * double(rows * in * out), compute);
      });
      if (rows == 1) continue;
      add(bench, "linear_backward" + shape,
          [&bench, in = in, out = out, rows, compute](benchmark::State& state) {
            const auto weight = bench.make_weight(out, in, compute);
            const auto dy = bench.make(rows, out), dx = bench.make(rows, in);
            bench.backend().linear_backward(*weight, dy, dx, true);  // packs the weight
            for (auto _ : state) bench.backend().linear_backward(*weight, dy, dx, true);
            bench.report(state, 2.0 * double(rows * in * out), compute);
          });
    }
  }
}

// The products of one LoRA module, for `jobs` segments of `rows` rows.
void add_grouped(Bench& bench, DType compute) {
  struct Kind {
    const char* name;
    bool transpose_a, transpose_b, accumulate;
  };
  constexpr Kind kKinds[] = {{"h=xA'", false, true, false},
                             {"y+=hB'", false, true, true},
                             {"dh=dyB", false, false, false},
                             {"dx+=dhA", false, false, true},
                             {"dA+=dh'x", true, false, true}};
  constexpr int64_t kCases[][4] = {
      {1, 512, 768, 16}, {16, 128, 768, 16}, {16, 128, 256, 8}, {8, 256, 2048, 64}};
  for (const auto& one : kCases) {
    for (const Kind& kind : kKinds) {
      const int64_t jobs = one[0], rows = one[1], size = one[2], rank = one[3];
      add(bench,
          fmt::format("grouped_matmul/{}/{}jobs/{}x{}r{}", kind.name, jobs, rows, size, rank) +
              suffix(compute),
          [=, &bench](benchmark::State& state) {
            const bool into_rank = kind.name[0] == 'h' || kind.name[1] == 'h';
            const auto wide = bench.make(jobs * rows, size), thin = bench.make(jobs * rows, rank);
            const auto factor = bench.make(jobs * rank, size), column = bench.make(jobs * size, rank);
            std::vector<MatmulItem> items;
            for (int64_t job = 0; job < jobs; ++job) {
              const Matrix w = wide.rows.row_range(job * rows, rows),
                           t = thin.rows.row_range(job * rows, rows);
              const Matrix a = factor.rows.row_range(job * rank, rank),
                           b = column.rows.row_range(job * size, size);
              if (kind.transpose_a) {
                items.push_back({t, w, a, true, false, 1e-3f, kind.accumulate});
              } else if (into_rank) {
                items.push_back(
                    {w, kind.transpose_b ? a : b, t, false, kind.transpose_b, 1e-3f, kind.accumulate});
              } else {
                items.push_back(
                    {t, kind.transpose_b ? b : a, w, false, kind.transpose_b, 1e-3f, kind.accumulate});
              }
            }
            for (auto _ : state) bench.backend().grouped_matmul(items, compute);
            bench.report(state, 2.0 * double(jobs * rows * size * rank), compute);
          });
    }
  }
}

void add_attention(Bench& bench, DType compute) {
  constexpr int64_t kCases[][5] = {{8, 256, 8, 4, 32},
                                   {4, 512, 12, 12, 64},
                                   {1, 2048, 12, 4, 64},
                                   {16, 128, 12, 12, 64},
                                   {2, 1024, 8, 2, 128}};
  for (const auto& one : kCases) {
    for (bool backward : {false, true}) {
      const int64_t sequences = one[0], length = one[1], heads = one[2], kv_heads = one[3], size = one[4];
      add(bench,
          fmt::format("attention{}/{}x{}/{}of{}x{}", backward ? "_backward" : "", sequences, length, kv_heads,
                      heads, size) +
              suffix(compute),
          [=, &bench](benchmark::State& state) {
            const AttentionShape shape = {int(heads), int(kv_heads), int(size), 1 / std::sqrt(float(size))};
            const int64_t rows = sequences * length, width = heads * size, kv = kv_heads * size;
            const auto q = bench.make(rows, width), out = bench.make(rows, width),
                       dout = bench.make(rows, width), dq = bench.make(rows, width),
                       log_sum = bench.make(rows, heads);
            const auto k = bench.make(rows, kv), v = bench.make(rows, kv), dk = bench.make(rows, kv),
                       dv = bench.make(rows, kv);
            std::vector<AttentionItem> items;
            std::vector<AttentionBackwardItem> backwards;
            for (int64_t s = 0; s < sequences; ++s) {
              const auto part = [&](const Matrix& x) { return x.row_range(s * length, length); };
              items.push_back({part(q), part(k), part(v), {}, {}, 0, part(out), part(log_sum)});
              backwards.push_back({items.back(), part(dout), part(dq), part(dk), part(dv), {}, {}});
            }
            bench.backend().attention(shape, items, compute);
            for (auto _ : state) {
              if (backward) {
                bench.backend().attention_backward(shape, backwards, compute);
              } else {
                bench.backend().attention(shape, items, compute);
              }
            }
            const double pairs = double(length) * double(length + 1) / 2 * double(sequences * heads);
            bench.report(state, pairs * double(size) * (backward ? 10 : 4), compute);
          });
    }
  }
}

// bytes: moved in one call.
void add_memory_bound(Bench& bench, const std::string& name, double bytes,
                      std::function<std::function<void()>()> prepare) {
  add(bench, name, [=](benchmark::State& state) {
    const std::function<void()> call = prepare();
    for (auto _ : state) call();
    state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
  });
}

void add_pointwise(Bench& bench) {
  constexpr int64_t kRows = 2048, kCols = 2048, kVocabulary = 32000, kLossRows = 256;
  constexpr double kPass = double(kRows * kCols) * sizeof(float);
  using Rows = std::shared_ptr<Bench::Rows>;
  const auto rows = [&bench](int64_t r, int64_t c) -> Rows {
    return std::make_shared<Bench::Rows>(bench.make(r, c));
  };
  Backend& on = bench.backend();
  for (Activation f : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
    const std::string name = f == Activation::kSilu ? "silu" : f == Activation::kGelu ? "gelu" : "gelu_tanh";
    add_memory_bound(bench, "gated_" + name, 3 * kPass, [=, &on] {
      Rows gate = rows(kRows, kCols), up = rows(kRows, kCols), out = rows(kRows, kCols);
      return [=, &on] { on.gated_activation(f, *gate, *up, *out); };
    });
    add_memory_bound(bench, "gated_" + name + "_backward", 5 * kPass, [=, &on] {
      Rows gate = rows(kRows, kCols), up = rows(kRows, kCols), dout = rows(kRows, kCols),
           dgate = rows(kRows, kCols), dup = rows(kRows, kCols);
      return [=, &on] { on.gated_activation_backward(f, *gate, *up, *dout, *dgate, *dup); };
    });
  }
  add_memory_bound(bench, "copy", 2 * kPass, [=, &on] {
    Rows x = rows(kRows, kCols), y = rows(kRows, kCols);
    return [=, &on] { on.copy(std::vector<UnaryItem>{{*x, *y}}); };
  });
  add_memory_bound(bench, "add", 3 * kPass, [=, &on] {
    Rows x = rows(kRows, kCols), y = rows(kRows, kCols);
    return [=, &on] { on.add(std::vector<UnaryItem>{{*x, *y}}); };
  });
  add_memory_bound(bench, "rms_norm", 2 * kPass, [=, &on] {
    Rows x = rows(kRows, kCols), y = rows(kRows, kCols), w = rows(1, kCols), r = rows(kRows, 1);
    return [=, &on] { on.rms_norm(*x, *w, 1e-5f, *y, *r); };
  });
  add_memory_bound(bench, "rms_norm_backward", 4 * kPass, [=, &on] {
    Rows x = rows(kRows, kCols), dy = rows(kRows, kCols), dx = rows(kRows, kCols), w = rows(1, kCols),
         r = rows(kRows, 1);
    return [=, &on] { on.rms_norm_backward(*x, *w, *r, *dy, *dx, true); };
  });
  add_memory_bound(bench, "rotary", 2 * kPass, [=, &on] {
    Rows x = rows(kRows, kCols), cos = rows(kRows, 32), sin = rows(kRows, 32);
    return [=, &on] { on.rotary(*x, *cos, *sin, 64, false); };
  });
  add_memory_bound(bench, "dropout", 2 * kPass, [=, &on] {
    Rows x = rows(kRows, kCols), y = rows(kRows, kCols), ids = rows(kRows, 2);
    return [=, &on] {
      Matrix words = *ids;
      words.dtype = DType::kI32;
      on.dropout(std::vector<DropoutItem>{{*x, *y, words, 42, 0.1f, false}});
    };
  });
  add_memory_bound(bench, "scale_columns_backward", 3 * kPass, [=, &on] {
    Rows x = rows(kRows, kCols), dy = rows(kRows, kCols), dx = rows(kRows, kCols), s = rows(1, kCols),
         ds = rows(1, kCols);
    return [=, &on] {
      on.scale_columns_backward(std::vector<ScaleColumnsBackwardItem>{{*x, *s, *dy, *dx, *ds}});
    };
  });
  for (bool gradient : {false, true}) {
    add_memory_bound(bench, gradient ? "cross_entropy_with_gradient" : "cross_entropy",
                     double(kLossRows * kVocabulary) * sizeof(float) * (gradient ? 2 : 1), [=, &on] {
                       Rows logits = rows(kLossRows, kVocabulary), weights = rows(kLossRows, 1),
                            loss = rows(kLossRows, 1), targets = rows(kLossRows, 1);
                       on.fill(*targets, 0);
                       return [=, &on] {
                         Matrix words = *targets;
                         words.dtype = DType::kI32;
                         if (gradient) {
                           on.cross_entropy_with_gradient(*logits, words, *weights, *loss);
                         } else {
                           on.cross_entropy(*logits, words, *loss);
                         }
                       };
                     });
  }
  add_memory_bound(bench, "adamw", 7 * kPass, [=, &on] {
    Rows w = rows(kRows, kCols), g = rows(kRows, kCols), m = rows(kRows, kCols), v = rows(kRows, kCols);
    on.fill(*v, 1);
    return [=, &on] { on.adamw({1e-3f, 0.9f, 0.999f, 1e-8f, 0.01f, 1, 3}, *w, *g, *m, *v); };
  });
  add_memory_bound(bench, "squared_norm", kPass, [=, &on] {
    Rows x = rows(kRows, kCols);
    return [=, &on] { benchmark::DoNotOptimize(on.squared_norm(*x)); };
  });
}

// All frozen projections that one token goes through.
void add_decoding(Bench& bench, const std::string& name, int64_t hidden, int64_t inner, int64_t layers,
                  int64_t vocabulary, DType compute) {
  add(bench, "decode_token/" + name + suffix(compute), [=, &bench](benchmark::State& state) {
    std::vector<std::unique_ptr<FrozenWeight>> weights;
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (int i = 0; i < 4; ++i) weights.push_back(bench.make_weight(hidden, hidden, compute));
      for (int i = 0; i < 2; ++i) weights.push_back(bench.make_weight(inner, hidden, compute));
      weights.push_back(bench.make_weight(hidden, inner, compute));
    }
    weights.push_back(bench.make_weight(vocabulary, hidden, compute));
    const auto x = bench.make(1, std::max(hidden, inner)), y = bench.make(1, std::max(inner, vocabulary));
    double flops = 0;
    for (const auto& weight : weights) flops += 2.0 * double(weight->in() * weight->out());
    for (auto _ : state) {
      for (const auto& weight : weights) {
        bench.backend().linear(*weight, x.rows.column_range(0, weight->in()), {},
                               y.rows.column_range(0, weight->out()));
      }
    }
    bench.report(state, flops, compute);
  });
}

}  // namespace
}  // namespace coppice

int main(int argc, char** argv) {
  using namespace coppice;
  int threads = int(std::thread::hardware_concurrency());
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--threads=", 10) != 0) continue;
    threads = std::max(1, std::atoi(argv[i] + 10));
    std::copy(argv + i + 1, argv + argc, argv + i);
    --argc;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  Bench bench(threads);
  for (DType compute : {DType::kF32, DType::kBF16}) {
    if (!bench.has(compute)) continue;
    add_linear(bench, compute);
    add_grouped(bench, compute);
    add_attention(bench, compute);
    add_decoding(bench, "7M", 256, 704, 8, 4096, compute);
    add_decoding(bench, "110M", 768, 2048, 12, 32000, compute);
  }
  add_pointwise(bench);
  benchmark::RunSpecifiedBenchmarks();
}
