#include "kernels/cpu/panel_linear.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/panel_linear.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/bf16_gemm.h"
#include "kernels/cpu/gemm-inl.h"

#ifndef COPPICE_KERNELS_CPU_PANEL_LINEAR_ONCE
#define COPPICE_KERNELS_CPU_PANEL_LINEAR_ONCE
namespace coppice {
namespace {

constexpr int64_t kPanel = 48;  // columns of the product: the widest tile of gemm-inl.h and bf16_gemm.h

}  // namespace
}  // namespace coppice
#endif

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

void multiply_floats(int64_t rows, int64_t cols, int64_t depth, const float* a, int64_t a_stride,
                     const float* b, float* c, int64_t c_stride, bool add, const Ahead& ahead) {
  multiply(rows, cols, depth, {a, a_stride, 1}, b, cols, c, c_stride, 1,
           add ? Store::kAccumulate : Store::kOverwrite, ahead);
}

// from: [inputs, outputs] of a panel, dense. to: [outputs, inputs], dense.
void turn_floats(const float* from, int64_t inputs, int64_t outputs, float* to) {
  transpose_into(from, inputs, outputs, outputs, to, inputs);
}

// from: [pairs of inputs, outputs] of a panel, dense. to: [pairs of outputs, inputs], dense.
#if HWY_TARGET == HWY_AVX3
void turn_pairs(const Pair* from, int64_t inputs, int64_t outputs, Pair* to) {
  constexpr int64_t kSide = 16;
  // Of 32 words, the earlier halves of each two that follow each other, and the later ones.
  HWY_ALIGN uint16_t earlier[32], later[32];
  for (int i = 0; i < 32; ++i) earlier[i] = uint16_t(2 * i), later[i] = uint16_t(2 * i + 1);
  const __m512i first_halves = _mm512_load_si512(earlier), second_halves = _mm512_load_si512(later);
  for (int64_t out = 0; out < outputs; out += 2 * kSide) {
    const __mmask16 low = native::mask_of(outputs - out), high = native::mask_of(outputs - out - kSide);
    const int64_t pairs_here = std::min(kSide, pairs_of(outputs - out));
    for (int64_t in = 0; in < inputs; in += kSide) {
      const Pair* at = from + in / 2 * outputs + out;
      __m512i block[kSide];  // [inputs, pairs of outputs]
      for (int64_t i = 0; i < kSide; i += 2, at += outputs) {
        const bool here = in + i < inputs;
        const __m512i first = here ? _mm512_maskz_loadu_epi32(low, at) : _mm512_setzero_si512();
        const __m512i second = here ? _mm512_maskz_loadu_epi32(high, at + kSide) : _mm512_setzero_si512();
        block[i] = _mm512_permutex2var_epi16(first, first_halves, second);
        block[i + 1] = _mm512_permutex2var_epi16(first, second_halves, second);
      }
      native::transpose(block);
      Pair* const row = to + out / 2 * inputs + in;
      for (int64_t i = 0; i < pairs_here; ++i)
        _mm512_mask_storeu_epi32(row + i * inputs, native::mask_of(inputs - in), block[i]);
    }
  }
}
#else
HWY_INLINE hn::Vec<Words> load_words(const Pair* from, int64_t count) {
  const Words words;
  if (count >= kLanes) return hn::LoadU(words, from);
  return hn::MaskedLoad(hn::FirstN(words, size_t(std::max<int64_t>(count, 0))), words, from);
}

void turn_pairs(const Pair* from, int64_t inputs, int64_t outputs, Pair* to) {
  constexpr int64_t kRow = kPanel / 2 + kLanes;  // a whole vector is stored at the end of a row
  HWY_ALIGN float block[kPanel * kRow];          // [inputs, pairs of outputs]
  const Words words;
  const auto low = hn::Set(words, 0xffffu);
  for (int64_t pair = 0; pair < pairs_of(inputs); ++pair, from += outputs) {
    float* const rows = block + 2 * pair * kRow;
    for (int64_t c = 0; c < outputs; c += 2 * kLanes) {
      const auto first = load_words(from + c, outputs - c),
                 second = load_words(from + c + kLanes, outputs - c - kLanes);
      const auto even = hn::ConcatEven(words, second, first), odd = hn::ConcatOdd(words, second, first);
      hn::StoreU(hn::BitCast(Floats(), hn::Or(hn::And(even, low), hn::ShiftLeft<16>(odd))), Floats(),
                 rows + c / 2);
      hn::StoreU(hn::BitCast(Floats(), hn::Or(hn::ShiftRight<16>(even), hn::AndNot(low, odd))), Floats(),
                 rows + kRow + c / 2);
    }
  }
  transpose_into(block, inputs, pairs_of(outputs), kRow, reinterpret_cast<float*>(to), inputs);
}
#endif

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/base/check.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/low_rank.h"
#include "kernels/host_backend.h"

namespace coppice {
namespace {

HWY_EXPORT(multiply_floats);
HWY_EXPORT(turn_floats);
HWY_EXPORT(turn_pairs);

constexpr int64_t kRowBlock = 128;  // rows whose part of the depth stays in the second-level cache
// Of the depth that are summed at a time, each part from zero, which also rounds less than one long chain:
// whole panels, where they are turned.
constexpr int64_t kUnits = 480;
constexpr int64_t kPanelsATask = 4;  // which pass over the rows together
constexpr int64_t kStrip = 8;        // rows of a register tile: what is called for ahead is spread over them

// What is stored takes the place of a float for each unit of the depth: one value, or in bfloat16 a pair.
constexpr size_t kUnitBytes = sizeof(float);
static_assert(sizeof(Pair) == kUnitBytes);

int64_t units_of(int64_t depth, DType compute) {
  return compute == DType::kBF16 ? pairs_of(depth) : depth;
}

// Whether rows of bfloat16 can be read as pairs where they stand.
bool is_pairs(const Matrix& x) {
  return x.dtype == DType::kBF16 && x.cols % 2 == 0 && x.stride % 2 == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % sizeof(Pair) == 0;
}

// Rows as pairs, dense.
void pack_rows(const Matrix& x, Pair* to) {
  const int64_t pairs = pairs_of(x.cols);
  if (x.dtype == DType::kF32) return pack_pairs_along(f32_row(x, 0), x.rows, x.cols, x.stride, to, pairs);
  for (int64_t r = 0; r < x.rows; ++r, to += pairs) {
    if (pairs > 0) to[pairs - 1] = 0;
    std::memcpy(to, bf16_row(x, r), size_t(x.cols) * sizeof(uint16_t));
  }
}

// x to BF16 rows, as products take them.
void round_block(const Matrix& x, const Matrix& to) {
  if (is_pairs(to))
    return pack_pairs_along(f32_row(x, 0), x.rows, x.cols, x.stride, to.as<Pair>(), to.stride / 2);
  for (int64_t r = 0; r < x.rows; ++r) round_operands(f32_row(x, r), x.cols, bf16_row(to, r));
}

// Whether packing a value as bfloat16 changes it.
bool changes(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return (bits & 0xffff) != 0 || std::fpclassify(value) == FP_SUBNORMAL;
}

}  // namespace

class PanelLinear::Weight final : public FrozenWeight {
 public:
  Weight(int64_t out, int64_t in, DType compute, Buffer panels)
      : FrozenWeight(out, in, panels.bytes()), compute(compute), panels(std::move(panels)) {}

  int64_t count() const { return (out() + kPanel - 1) / kPanel; }
  int64_t width(int64_t panel) const { return std::min(kPanel, out() - panel * kPanel); }
  int64_t units() const { return units_of(in(), compute); }
  // Unit `unit` of the inputs.
  std::byte* data(int64_t panel, int64_t unit) const {
    return panels.data() + size_t(panel * kPanel * units() + unit * width(panel)) * kUnitBytes;
  }
  void set_exact(bool exact) { exact_ = exact; }

  const DType compute;
  const Buffer panels;
};

// [rows, depth] x [depth, cols] with a weight, as it stands or turned.
struct PanelLinear::Product {
  const Weight& weight;
  bool turned = false;

  DType compute() const { return weight.compute; }
  int64_t depth() const { return turned ? weight.out() : weight.in(); }
  int64_t units() const { return units_of(depth(), compute()); }
  int64_t cols() const { return turned ? weight.in() : weight.out(); }
  int64_t panels() const { return (cols() + kPanel - 1) / kPanel; }
  int64_t width(int64_t panel) const { return std::min(kPanel, cols() - panel * kPanel); }

  // What part() will read, in pieces for at most so many strips.
  Ahead ahead(int64_t panel, int64_t unit, int64_t count, int64_t strips) const {
    if (!turned) {
      const int64_t bytes = count * width(panel) * int64_t(kUnitBytes), each = (bytes + strips - 1) / strips;
      return {weight.data(panel, unit), strips, each, each};
    }
    const int64_t values = compute() == DType::kBF16 ? 2 : 1;
    const int64_t from = unit * values / kPanel;
    return {weight.data(from, panel * kPanel / values),
            std::min(strips, (count * values + kPanel - 1) / kPanel),
            units_of(width(panel), compute()) * weight.width(from) * int64_t(kUnitBytes),
            kPanel * weight.units() * int64_t(kUnitBytes)};
  }

  // The part [unit, unit + count) of the depth of a panel, [units, width], in scratch where it is turned.
  const std::byte* part(int64_t panel, int64_t unit, int64_t count, std::byte* scratch) const {
    if (!turned) return weight.data(panel, unit);
    const int64_t values = compute() == DType::kBF16 ? 2 : 1;  // of a unit
    const int64_t inputs = width(panel), first_input = panel * kPanel / values;
    std::byte* to = scratch;
    const int64_t end = std::min((unit + count) * values, depth());
    for (int64_t out = unit * values; out < end; out += kPanel) {
      const int64_t from = out / kPanel, outputs = weight.width(from);
      const std::byte* const data = weight.data(from, first_input);
      if (compute() == DType::kBF16) {
        HWY_DYNAMIC_DISPATCH(turn_pairs)
        (reinterpret_cast<const Pair*>(data), inputs, outputs, reinterpret_cast<Pair*>(to));
      } else {
        HWY_DYNAMIC_DISPATCH(turn_floats)
        (reinterpret_cast<const float*>(data), inputs, outputs, reinterpret_cast<float*>(to));
      }
      to += size_t(units_of(outputs, compute()) * inputs) * kUnitBytes;
    }
    return scratch;
  }
};

std::unique_ptr<FrozenWeight> PanelLinear::prepare(const TensorView& view, DType compute) {
  CHECK(view.shape.size() == 2 && view.shape[0] > 0 && view.shape[1] > 0);
  CHECK(view.dtype == DType::kF32 || view.dtype == DType::kF16 || view.dtype == DType::kBF16);
  const int64_t out = view.shape[0], in = view.shape[1];
  CHECK(view.bytes.size() == size_t(out * in) * dtype_size(view.dtype));
  auto weight = std::make_unique<Weight>(out, in, compute, backend_.allocate(weight_bytes(out, in, compute)));
  const Buffer rows = backend_.allocate(size_t(kPanel * in * pool_.threads()) * sizeof(float));
  std::atomic<bool> exact = true;
  pool_.parallel_for(weight->count(), [&](int64_t panel, int worker) {
    float* const values = reinterpret_cast<float*>(rows.data()) + worker * kPanel * in;
    const int64_t width = weight->width(panel);
    read_f32(view, panel * kPanel * in, width * in, values);
    if (compute == DType::kBF16) {
      if (std::any_of(values, values + width * in, changes)) exact = false;
      pack_pairs_transposed(values, width, in, in, reinterpret_cast<Pair*>(weight->data(panel, 0)), width);
    } else {
      HWY_DYNAMIC_DISPATCH(turn_floats)(values, width, in, reinterpret_cast<float*>(weight->data(panel, 0)));
    }
  });
  weight->set_exact(exact);
  return weight;
}

size_t PanelLinear::weight_bytes(int64_t out, int64_t in, DType compute) {
  return size_t(out * units_of(in, compute)) * kUnitBytes;
}

bool PanelLinear::made(const FrozenWeight& weight) {
  return dynamic_cast<const Weight*>(&weight) != nullptr;
}

// A task is some panels on some rows. There are as many for each thread; rows are cut only where panels do
// not go round, since a turned panel serves all rows of its task.
void PanelLinear::multiply(const Product& product, Matrix x, Matrix bias, Matrix y, bool accumulate,
                           std::span<const LowRankItem> beside) {
  CHECK(x.dtype == DType::kF32 || (x.dtype == DType::kBF16 && product.compute() == DType::kBF16));
  const bool bf16 = product.compute() == DType::kBF16, rounds = y.dtype == DType::kBF16;
  CHECK(x.rows == y.rows && (rounds ? bf16 && !accumulate : y.dtype == DType::kF32));
  CHECK(x.cols == product.depth() && y.cols == product.cols());
  CHECK(bias.empty() || (bias.rows == 1 && bias.cols == y.cols && bias.dtype == DType::kF32));
  const int64_t threads = pool_.threads(), units = product.units();
  const auto round_up = [](int64_t value, int64_t step) { return (value + step - 1) / step * step; };
  const int64_t groups =
      std::min(product.panels(), round_up((product.panels() + kPanelsATask - 1) / kPanelsATask, threads));
  const int64_t row_blocks = (x.rows + kRowBlock - 1) / kRowBlock;
  const int64_t chunks = std::min(row_blocks, (threads + groups - 1) / groups);
  const int64_t chunk_rows = chunks == 0 ? 0 : (row_blocks + chunks - 1) / chunks * kRowBlock;

  const LowRank low_rank(backend_, pool_, beside, product.turned, product.compute(), x, kPanel, kPanelsATask);

  // The left side in the words of the product. Rows of bfloat16 are pairs where they stand.
  Buffer packed;
  PairsOfRows left = {reinterpret_cast<const Pair*>(x.data), x.stride / 2, 1};
  const bool stands = is_pairs(x);
  if (bf16 && !stands) {
    packed = backend_.allocate(size_t(x.rows * units) * sizeof(Pair));
    left = {reinterpret_cast<const Pair*>(packed.data()), units, 1};
  }
  if (bf16 && (!stands || !low_rank.empty())) {
    pool_.parallel_for(row_blocks, [&](int64_t block, int) {
      const int64_t row = block * kRowBlock, rows = std::min(kRowBlock, x.rows - row);
      if (!stands) pack_rows(x.row_range(row, rows), reinterpret_cast<Pair*>(packed.data()) + row * units);
      low_rank.compute_inner(row, rows, {left.data + row * left.row, left.row, 1});
    });
  }
  const size_t panel_bytes = product.turned ? size_t(std::min(kUnits, units) * kPanel) * kUnitBytes : 0;
  const Buffer scratch = backend_.allocate(panel_bytes * size_t(kPanelsATask * threads));
  // What is to be rounded has its sums here until they are whole: those of a block, or, where the depth comes
  // in parts, of all rows of a task.
  const int64_t sums_rows = !rounds ? 0 : std::min(x.rows, units > kUnits ? chunk_rows : kRowBlock);
  const int64_t sums_stride = groups == 0 ? 0 : (product.panels() + groups - 1) / groups * kPanel;
  const Buffer sums = backend_.allocate(size_t(sums_rows * sums_stride * threads) * sizeof(float));

  pool_.parallel_for(groups * chunks, [&](int64_t task, int worker) {
    const int64_t group = task % groups, chunk = task / groups;
    const int64_t first = product.panels() * group / groups, last = product.panels() * (group + 1) / groups;
    const int64_t begin = chunk * chunk_rows, end = std::min(x.rows, begin + chunk_rows);
    const int64_t column = first * kPanel, columns = std::min(y.cols, last * kPanel) - column;
    std::byte* const own = scratch.data() + panel_bytes * size_t(kPanelsATask * worker);
    float* const own_sums = reinterpret_cast<float*>(sums.data()) + worker * sums_rows * sums_stride;
    for (int64_t p = first; p < last; ++p)
      low_rank.prepare(begin, end, p * kPanel, product.width(p), p - first, worker);
    for (int64_t unit = 0; unit < units; unit += kUnits) {
      const int64_t count = std::min(kUnits, units - unit);
      const bool add = unit > 0 || accumulate || !bias.empty();
      const std::byte* parts[kPanelsATask];
      for (int64_t row = begin; row < end; row += kRowBlock) {
        const int64_t rows = std::min(kRowBlock, end - row);
        float* const block =
            rounds ? own_sums + (units > kUnits ? row - begin : 0) * sums_stride : f32_row(y, row) + column;
        const int64_t stride = rounds ? sums_stride : y.stride;
        if (unit == 0 && !bias.empty())
          for (int64_t r = 0; r < rows; ++r)
            std::copy_n(bias.as<float>() + column, columns, block + r * stride);
        for (int64_t p = first; p < last; ++p) {
          // The first rows to need a part have it made, and call for the next one.
          Ahead ahead;
          if (row == begin) {
            parts[p - first] = product.part(p, unit, count, own + panel_bytes * size_t(p - first));
            const int64_t strips = (rows + kStrip - 1) / kStrip;
            if (p + 1 < last) {
              ahead = product.ahead(p + 1, unit, count, strips);
            } else if (unit + count < units) {
              ahead = product.ahead(first, unit + count, std::min(kUnits, units - unit - count), strips);
            }
          }
          const int64_t width = product.width(p);
          float* const to = block + (p - first) * kPanel;
          if (bf16) {
            multiply_pairs(rows, width, count, {left.data + row * left.row + unit, left.row, 1},
                           reinterpret_cast<const Pair*>(parts[p - first]), width, to, stride, 1,
                           add ? PairStore::kAccumulate : PairStore::kOverwrite, ahead);
          } else {
            HWY_DYNAMIC_DISPATCH(multiply_floats)
            (rows, width, count, f32_row(x, row) + unit, x.stride,
             reinterpret_cast<const float*>(parts[p - first]), to, stride, add, ahead);
          }
          if (unit + count == units) low_rank.add(row, rows, width, p - first, worker, to, stride);
        }
        if (rounds && unit + count == units)
          round_block({reinterpret_cast<std::byte*>(block), DType::kF32, rows, columns, stride},
                      y.row_range(row, rows).column_range(column, columns));
      }
    }
  });
}

void PanelLinear::forward(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
                          std::span<const LowRankItem> beside) {
  multiply({static_cast<const Weight&>(weight)}, x, bias, y, false, beside);
}

void PanelLinear::backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                           std::span<const LowRankItem> beside) {
  multiply({static_cast<const Weight&>(weight), true}, dy, {}, dx, accumulate, beside);
}

void PanelLinear::rows(const FrozenWeight& weight, Matrix indices, Matrix rows) {
  const auto& w = static_cast<const Weight&>(weight);
  CHECK(w.exact() && rows.dtype == DType::kF32 && rows.cols == w.in());
  CHECK(indices.dtype == DType::kI32 && indices.rows == rows.rows && indices.cols == 1);
  pool_.parallel_for(rows.rows, [&](int64_t r, int) {
    const int64_t index = i32_row(indices, r)[0];
    CHECK(index >= 0 && index < w.out());
    const int64_t panel = index / kPanel, width = w.width(panel);
    const std::byte* const column = w.data(panel, 0) + size_t(index % kPanel) * kUnitBytes;
    float* const to = f32_row(rows, r);
    if (w.compute == DType::kF32) {
      const auto* const from = reinterpret_cast<const float*>(column);
      for (int64_t i = 0; i < w.in(); ++i) to[i] = from[i * width];
    } else {
      const auto* const from = reinterpret_cast<const Pair*>(column);
      for (int64_t i = 0; i < w.in(); ++i)
        to[i] = from_bf16(uint16_t(from[i / 2 * width] >> (i % 2 == 0 ? 0 : 16)));
    }
  });
}

}  // namespace coppice
#endif
