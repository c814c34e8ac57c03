// Operators on elements and rows. All are bound by memory but the activations and dropout, so each is one
// pass.

#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pointwise.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd-inl.h"

#ifndef COPPICE_KERNELS_CPU_POINTWISE_ONCE
#define COPPICE_KERNELS_CPU_POINTWISE_ONCE
namespace coppice {
constexpr int64_t kSumColumns = 256;     // of a task that goes down all rows
constexpr int64_t kFillColumns = 65536;  // an adapter's gradients are one long row
}  // namespace coppice
#endif

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {
namespace {

struct ValueAndSlope {
  Vec value, slope;
};

// The formulas are those of kernels/ref/pointwise.cc; the tanh form of gelu is x sigmoid(2 u), which needs no
// tanh.
template <Activation kind>
HWY_INLINE ValueAndSlope evaluate(Vec x) {
  const Vec one = set(1.0f);
  if constexpr (kind == Activation::kSilu) {
    const Vec s = sigmoid(x), value = hn::Mul(x, s);
    return {value, hn::MulAdd(value, hn::Sub(one, s), s)};
  } else if constexpr (kind == Activation::kGelu) {
    const Vec p = hn::Mul(set(0.5f), hn::Add(one, erf(hn::Mul(x, set(0.707106781f)))));
    const Vec density = hn::Mul(exp(hn::Mul(hn::Mul(set(-0.5f), x), x)), set(0.398942280f));
    return {hn::Mul(x, p), hn::MulAdd(x, density, p)};
  } else if constexpr (kind == Activation::kGeluTanh) {
    const Vec square = hn::Mul(x, x), root = set(1.595769122f);  // 2 sqrt(2 / pi)
    const Vec s = sigmoid(hn::Mul(hn::Mul(root, x), hn::MulAdd(set(0.044715f), square, one)));
    const Vec slope_of_u = hn::Mul(root, hn::MulAdd(set(0.134145f), square, one));
    const Vec value = hn::Mul(x, s);
    return {value, hn::MulAdd(hn::Mul(value, hn::Sub(one, s)), slope_of_u, s)};
  } else {
    return {hn::IfThenElse(hn::Lt(x, set(0)), set(0), x), hn::IfThenElse(hn::Le(x, set(0)), set(0), one)};
  }
}

// body(row, column, part) over a matrix's elements.
template <typename Body>
HWY_INLINE void for_elements(int64_t rows, int64_t cols, const Body& body) {
  for (int64_t r = 0; r < rows; ++r) {
    for_columns(cols, [&](int64_t c, auto part) HWY_ATTR { body(r, c, part); });
  }
}

// call(std::integral_constant<Activation, f>)
template <typename Call>
HWY_INLINE void with_activation(Activation f, const Call& call) {
  switch (f) {
    case Activation::kSilu:
      return call(std::integral_constant<Activation, Activation::kSilu>());
    case Activation::kGelu:
      return call(std::integral_constant<Activation, Activation::kGelu>());
    case Activation::kGeluTanh:
      return call(std::integral_constant<Activation, Activation::kGeluTanh>());
    case Activation::kRelu:
      return call(std::integral_constant<Activation, Activation::kRelu>());
  }
}

template <Activation kind, typename In, typename Out>
HWY_INLINE void gated_rows(Matrix gate, Matrix up, Matrix out) {
  for (int64_t r = 0; r < gate.rows; ++r) {
    for_pieces(gate.cols, [&](int64_t first, int64_t count) HWY_ATTR {
      const In* const g = row_of<In>(gate, r) + first;
      const In* const u = up.empty() ? nullptr : row_of<In>(up, r) + first;
      Out* const result = row_of<Out>(out, r) + first;
      Piece<Out> piece;
      float* const to = piece.of(result);
      for_columns(count, [=](int64_t c, auto part) HWY_ATTR {
        Vec value = evaluate<kind>(load(g + c, part)).value;
        if (u != nullptr) value = hn::Mul(value, load(u + c, part));
        store(value, to + c, part);
      });
      piece.done(count, result);
    });
  }
}

template <Activation kind, typename In, typename Gradient, typename Out>
HWY_INLINE void gated_backward_rows(Matrix gate, Matrix up, Matrix dout, Matrix dgate, Matrix dup) {
  for (int64_t r = 0; r < gate.rows; ++r) {
    for_pieces(gate.cols, [&](int64_t first, int64_t count) HWY_ATTR {
      const In *const g = row_of<In>(gate, r) + first, *const u = row_of<In>(up, r) + first;
      const Gradient* const d = row_of<Gradient>(dout, r) + first;
      Out *const g_result = row_of<Out>(dgate, r) + first, *const u_result = row_of<Out>(dup, r) + first;
      Piece<Out> g_piece, u_piece;
      float *const g_to = g_piece.of(g_result), *const u_to = u_piece.of(u_result);
      for_columns(count, [=](int64_t c, auto part) HWY_ATTR {
        const ValueAndSlope at = evaluate<kind>(load(g + c, part));
        const Vec gradient = load(d + c, part);
        store(hn::Mul(hn::Mul(gradient, load(u + c, part)), at.slope), g_to + c, part);
        store(hn::Mul(gradient, at.value), u_to + c, part);
      });
      g_piece.done(count, g_result);
      u_piece.done(count, u_result);
    });
  }
}

// up may be empty: out = f(gate).
void gated(Activation f, Matrix gate, Matrix up, Matrix out) {
  with_activation(f, [&](auto kind) HWY_ATTR {
    with_elements(gate, [&](auto in) HWY_ATTR {
      with_elements(out,
                    [&](auto to) HWY_ATTR { gated_rows<kind(), decltype(in), decltype(to)>(gate, up, out); });
    });
  });
}

void gated_backward(Activation f, Matrix gate, Matrix up, Matrix dout, Matrix dgate, Matrix dup) {
  with_activation(f, [&](auto kind) HWY_ATTR {
    with_elements(gate, [&](auto in) HWY_ATTR {
      with_elements(dout, [&](auto gradient) HWY_ATTR {
        with_elements(dgate, [&](auto to) HWY_ATTR {
          gated_backward_rows<kind(), decltype(in), decltype(gradient), decltype(to)>(gate, up, dout, dgate,
                                                                                      dup);
        });
      });
    });
  });
}

void slope(Activation f, Matrix x, Matrix dy, Matrix dx) {
  with_activation(f, [&](auto kind) HWY_ATTR {
    for_elements(x.rows, x.cols, [&](int64_t r, int64_t c, auto part) HWY_ATTR {
      const Vec factor = evaluate<kind()>(load(f32_row(x, r) + c, part)).slope;
      store(hn::Mul(load(f32_row(dy, r) + c, part), factor), f32_row(dx, r) + c, part);
    });
  });
}

void add_block(Matrix x, Matrix y) {
  for_elements(y.rows, y.cols, [&](int64_t r, int64_t c, auto part) HWY_ATTR {
    float* const at = f32_row(y, r) + c;
    store(hn::Add(load(at, part), load(f32_row(x, r) + c, part)), at, part);
  });
}

void add_row_block(Matrix row, Matrix y) {
  for_elements(y.rows, y.cols, [&](int64_t r, int64_t c, auto part) HWY_ATTR {
    float* const at = f32_row(y, r) + c;
    store(hn::Add(load(at, part), load(f32_row(row, 0) + c, part)), at, part);
  });
}

void scale_block(Matrix x, Matrix scale, Matrix y) {
  for_elements(y.rows, y.cols, [&](int64_t r, int64_t c, auto part) HWY_ATTR {
    store(hn::Mul(load(f32_row(x, r) + c, part), load(f32_row(scale, 0) + c, part)), f32_row(y, r) + c, part);
  });
}

// sum += sum over rows of y, or of y * x, down the rows and added once. With x also dx = y * scale, where dx
// is not empty; dx may be y.
template <typename Element>  // of x
HWY_INLINE void sum_rows_of(Matrix y, Matrix x, Matrix scale, Matrix dx, Matrix sum) {
  HWY_ALIGN float totals[kSumColumns];
  for (int64_t begin = 0; begin < y.cols; begin += kSumColumns) {
    const int64_t cols = std::min(kSumColumns, y.cols - begin);
    std::fill_n(totals, cols, 0.0f);
    for (int64_t r = 0; r < y.rows; ++r) {
      const float* const y_row = f32_row(y, r) + begin;
      const Element* const x_row = x.empty() ? nullptr : row_of<Element>(x, r) + begin;
      float* const dx_row = dx.empty() ? nullptr : f32_row(dx, r) + begin;
      for_columns(cols, [&](int64_t c, auto part) HWY_ATTR {
        const Vec value = load(y_row + c, part);
        const Vec term = x_row != nullptr ? hn::Mul(value, load(x_row + c, part)) : value;
        store(hn::Add(load(totals + c, part), term), totals + c, part);
        if (dx_row == nullptr) return;
        store(hn::Mul(value, load(f32_row(scale, 0) + begin + c, part)), dx_row + c, part);
      });
    }
    for_columns(cols, [&](int64_t c, auto part) HWY_ATTR {
      float* const at = f32_row(sum, 0) + begin + c;
      store(hn::Add(load(at, part), load(totals + c, part)), at, part);
    });
  }
}

void sum_rows(Matrix y, Matrix x, Matrix scale, Matrix dx, Matrix sum) {
  with_elements(x, [&](auto element) HWY_ATTR { sum_rows_of<decltype(element)>(y, x, scale, dx, sum); });
}

using WordVec = hn::Vec<Words>;

// The low and high words of a 32 x 32 bit product, lane by lane.
HWY_INLINE void multiply_words(WordVec a, uint32_t b, WordVec& low, WordVec& high) {
  const Words words;
  const hn::RepartitionToWide<Words> wide;
  const WordVec factor = hn::Set(words, b);
  const auto even = hn::MulEven(a, factor);
  const auto odd = hn::MulEven(hn::BitCast(words, hn::ShiftRight<32>(hn::BitCast(wide, a))), factor);
  low = hn::OddEven(hn::BitCast(words, hn::ShiftLeft<32>(odd)), hn::BitCast(words, even));
  high = hn::OddEven(hn::BitCast(words, odd), hn::BitCast(words, hn::ShiftRight<32>(even)));
}

// philox() of common/base/random.h for the counters {first + lane, position, sequence, 0}: to[4 * lane + w]
// is word w.
HWY_INLINE void philox_words(uint64_t key, uint32_t first, uint32_t position, uint32_t sequence,
                             uint32_t* to) {
  const Words words;
  WordVec x0 = hn::Iota(words, first), x1 = hn::Set(words, position), x2 = hn::Set(words, sequence),
          x3 = hn::Zero(words);
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    WordVec low0, high0, low1, high1;
    multiply_words(x0, 0xD2511F53, low0, high0);
    multiply_words(x2, 0xCD9E8D57, low1, high1);
    x0 = hn::Xor(hn::Xor(high1, x1), hn::Set(words, k0));
    x1 = low1;
    x2 = hn::Xor(hn::Xor(high0, x3), hn::Set(words, k1));
    x3 = low0;
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  hn::StoreInterleaved4(x0, x1, x2, x3, words, to);
}

// threshold: a word below it drops its element.
template <typename Element>  // of x
HWY_INLINE void dropout_rows_of(const DropoutItem& item, uint32_t threshold, float factor, int64_t begin,
                                int64_t end) {
  constexpr int64_t kChunk = 4 * kLanes;
  const Ints ints;
  const auto sign = hn::Set(ints, INT32_MIN);  // turns the order of unsigned words into that of signed ones
  const auto limit = hn::Xor(hn::Set(ints, int32_t(threshold)), sign);
  HWY_ALIGN uint32_t words[kChunk];
  for (int64_t r = begin; r < end; ++r) {
    const auto sequence = uint32_t(i32_row(item.row_ids, r)[0]),
               position = uint32_t(i32_row(item.row_ids, r)[1]);
    const Element* const x = row_of<Element>(item.x, r);
    float* const y = f32_row(item.y, r);
    for (int64_t chunk = 0; chunk < item.x.cols; chunk += kChunk) {
      philox_words(item.key, uint32_t(chunk / 4), position, sequence, words);
      for_columns(std::min(kChunk, item.x.cols - chunk), [&](int64_t c, auto part) HWY_ATTR {
        const auto word = hn::BitCast(ints, hn::Load(Words(), words + c));
        const auto dropped = hn::RebindMask(Floats(), hn::Lt(hn::Xor(word, sign), limit));
        const Vec value = hn::Mul(load(x + chunk + c, part), set(factor));
        float* const at = y + chunk + c;
        if (item.accumulate) {
          const Vec before = load(at, part);
          store(hn::IfThenElse(dropped, before, hn::Add(before, value)), at, part);
        } else {
          store(hn::IfThenElse(dropped, set(0), value), at, part);
        }
      });
    }
  }
}

void dropout_rows(const DropoutItem& item, uint32_t threshold, float factor, int64_t begin, int64_t end) {
  with_elements(item.x, [&](auto element) HWY_ATTR {
    dropout_rows_of<decltype(element)>(item, threshold, factor, begin, end);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <cmath>
#include <cstring>

#include "common/base/check.h"
#include "kernels/cpu/convert.h"

namespace coppice {
namespace {

HWY_EXPORT(gated);
HWY_EXPORT(gated_backward);
HWY_EXPORT(slope);
HWY_EXPORT(add_block);
HWY_EXPORT(add_row_block);
HWY_EXPORT(scale_block);
HWY_EXPORT(sum_rows);
HWY_EXPORT(dropout_rows);

void check_same(const Matrix& a, const Matrix& b) {
  CHECK(a.rows == b.rows && a.cols == b.cols && a.dtype == DType::kF32 && b.dtype == DType::kF32);
}

// The same of what may be BF16.
void check_floats(const Matrix& a, const Matrix& b) {
  CHECK(a.rows == b.rows && a.cols == b.cols && is_float(a.dtype) && is_float(b.dtype));
}

void check_gather(const GatherItem& item) {
  CHECK(item.indices.dtype == DType::kI32 && item.indices.rows == item.rows.rows && item.indices.cols == 1);
  CHECK(item.rows.dtype == DType::kF32 && item.rows.cols == item.table.cols);
  for (int64_t r = 0; r < item.rows.rows; ++r) {
    const int64_t index = i32_row(item.indices, r)[0];
    CHECK(index >= 0 && index < item.table.rows);
  }
}

}  // namespace

void CpuBackend::gated_activation(Activation f, Matrix gate, Matrix up, Matrix out) {
  check_floats(gate, up);
  check_floats(gate, out);
  CHECK(gate.dtype == up.dtype);
  for_rows(gate.rows, gate.cols, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    HWY_DYNAMIC_DISPATCH(gated)
    (f, gate.row_range(begin, n), up.row_range(begin, n), out.row_range(begin, n));
  });
}

void CpuBackend::gated_activation_backward(Activation f, Matrix gate, Matrix up, Matrix dout, Matrix dgate,
                                           Matrix dup) {
  for (const Matrix& x : {up, dout, dgate, dup}) check_floats(gate, x);
  CHECK(gate.dtype == up.dtype && dgate.dtype == dup.dtype);
  for_rows(gate.rows, gate.cols, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    HWY_DYNAMIC_DISPATCH(gated_backward)
    (f, gate.row_range(begin, n), up.row_range(begin, n), dout.row_range(begin, n), dgate.row_range(begin, n),
     dup.row_range(begin, n));
  });
}

void CpuBackend::activation(Activation f, std::span<const UnaryItem> items) {
  for (const UnaryItem& item : items) check_same(item.x, item.y);
  for_blocks(
      items, {}, [](const UnaryItem& item) { return item.y; },
      [&](const UnaryItem& item, const Block& block) {
        HWY_DYNAMIC_DISPATCH(gated)(f, block.of(item.x), Matrix(), block.of(item.y));
      });
}

void CpuBackend::activation_backward(Activation f, std::span<const UnaryBackwardItem> items) {
  for (const UnaryBackwardItem& item : items) {
    check_same(item.x, item.dy);
    check_same(item.x, item.dx);
  }
  for_blocks(
      items, {}, [](const UnaryBackwardItem& item) { return item.dx; },
      [&](const UnaryBackwardItem& item, const Block& block) {
        HWY_DYNAMIC_DISPATCH(slope)(f, block.of(item.x), block.of(item.dy), block.of(item.dx));
      });
}

void CpuBackend::fill(Matrix x, float value) {
  for_blocks(
      std::span<const Matrix>(&x, 1), Cut{0, kFillColumns}, [](const Matrix& whole) { return whole; },
      [&](const Matrix& whole, const Block& block) { HostBackend::fill(block.of(whole), value); });
}

void CpuBackend::copy(std::span<const UnaryItem> items) {
  for (const UnaryItem& item : items) {
    CHECK(item.x.rows == item.y.rows && item.x.cols == item.y.cols);
    CHECK(item.x.dtype == item.y.dtype || (item.x.dtype == DType::kF32 && item.y.dtype == DType::kBF16) ||
          (item.x.dtype == DType::kBF16 && item.y.dtype == DType::kF32));
  }
  for_blocks(
      items, {}, [](const UnaryItem& item) { return item.y; },
      [](const UnaryItem& item, const Block& block) {
        const size_t bytes = size_t(item.x.cols) * dtype_size(item.x.dtype);
        for (int64_t r = block.row; r < block.row + block.rows && bytes > 0; ++r) {
          if (item.x.dtype == item.y.dtype) {
            std::memmove(row_bytes(item.y, r), row_bytes(item.x, r), bytes);
          } else if (item.y.dtype == DType::kBF16) {
            round_operands(f32_row(item.x, r), item.x.cols, bf16_row(item.y, r));
          } else {
            widen_bf16(bf16_row(item.x, r), item.x.cols, f32_row(item.y, r));
          }
        }
      });
}

void CpuBackend::add(std::span<const UnaryItem> items) {
  for (const UnaryItem& item : items) check_same(item.x, item.y);
  for_blocks(
      items, {}, [](const UnaryItem& item) { return item.y; },
      [](const UnaryItem& item, const Block& block) {
        HWY_DYNAMIC_DISPATCH(add_block)(block.of(item.x), block.of(item.y));
      });
}

void CpuBackend::scale_columns(std::span<const ScaleColumnsItem> items) {
  for (const ScaleColumnsItem& item : items) {
    check_same(item.x, item.y);
    CHECK(item.scale.rows == 1 && item.scale.cols == item.x.cols);
  }
  for_blocks(
      items, {}, [](const ScaleColumnsItem& item) { return item.y; },
      [](const ScaleColumnsItem& item, const Block& block) {
        HWY_DYNAMIC_DISPATCH(scale_block)
        (block.of(item.x), item.scale.column_range(block.column, block.cols), block.of(item.y));
      });
}

void CpuBackend::scale_columns_backward(std::span<const ScaleColumnsBackwardItem> items) {
  for (const ScaleColumnsBackwardItem& item : items) {
    check_floats(item.x, item.dy);
    check_same(item.scale, item.dscale);
    CHECK(item.scale.rows == 1 && item.scale.cols == item.x.cols && item.dy.dtype == DType::kF32);
    if (!item.dx.empty()) check_same(item.dy, item.dx);
  }
  for_blocks(
      items, Cut{1, kSumColumns}, [](const ScaleColumnsBackwardItem& item) { return item.dscale; },
      [](const ScaleColumnsBackwardItem& item, const Block& block) {
        const auto part = [&](const Matrix& x) {
          return x.empty() ? Matrix() : x.column_range(block.column, block.cols);
        };
        HWY_DYNAMIC_DISPATCH(sum_rows)
        (part(item.dy), part(item.x), part(item.scale), part(item.dx), part(item.dscale));
      });
}

void CpuBackend::add_bias(std::span<const BiasItem> items) {
  for (const BiasItem& item : items) CHECK(item.bias.rows == 1 && item.bias.cols == item.y.cols);
  for_blocks(
      items, {}, [](const BiasItem& item) { return item.y; },
      [](const BiasItem& item, const Block& block) {
        HWY_DYNAMIC_DISPATCH(add_row_block)
        (item.bias.column_range(block.column, block.cols), block.of(item.y));
      });
}

void CpuBackend::add_bias_backward(std::span<const BiasItem> items) {
  for (const BiasItem& item : items) CHECK(item.bias.rows == 1 && item.bias.cols == item.y.cols);
  for_blocks(
      items, Cut{1, kSumColumns}, [](const BiasItem& item) { return item.bias; },
      [](const BiasItem& item, const Block& block) {
        HWY_DYNAMIC_DISPATCH(sum_rows)
        (item.y.column_range(block.column, block.cols), {}, {}, {}, block.of(item.bias));
      });
}

// A dropped element gives 0 whatever it was, and leaves y as it is with accumulate.
void CpuBackend::dropout(std::span<const DropoutItem> items) {
  for (const DropoutItem& item : items) {
    check_floats(item.x, item.y);
    CHECK(item.y.dtype == DType::kF32);
    CHECK(item.row_ids.dtype == DType::kI32 && item.row_ids.rows == item.x.rows && item.row_ids.cols == 2);
    CHECK(item.p >= 0 && item.p <= 1);
  }
  for_blocks(
      items, {}, [](const DropoutItem& item) { return item.y; },
      [](const DropoutItem& item, const Block& block) {
        const auto threshold = uint64_t(std::llround(double(item.p) * 0x1p32));
        if (threshold <= UINT32_MAX) {
          HWY_DYNAMIC_DISPATCH(dropout_rows)
          (item, uint32_t(threshold), 1 / (1 - item.p), block.row, block.row + block.rows);
        } else if (!item.accumulate) {
          for (int64_t r = block.row; r < block.row + block.rows; ++r)
            std::fill_n(f32_row(item.y, r), item.y.cols, 0.0f);
        }
      });
}

void CpuBackend::gather_rows(std::span<const GatherItem> items) {
  for (const GatherItem& item : items) {
    CHECK(item.table.dtype == DType::kF32 || item.table.dtype == DType::kF16 ||
          item.table.dtype == DType::kBF16);
    check_gather(item);
  }
  for_blocks(
      items, {}, [](const GatherItem& item) { return item.rows; },
      [](const GatherItem& item, const Block& block) {
        for (int64_t r = block.row; r < block.row + block.rows; ++r) {
          const std::byte* const from = row_bytes(item.table, i32_row(item.indices, r)[0]);
          const auto* const half = reinterpret_cast<const uint16_t*>(from);
          float* const to = f32_row(item.rows, r);
          if (item.table.dtype == DType::kF32) {
            std::copy_n(reinterpret_cast<const float*>(from), item.table.cols, to);
          } else if (item.table.dtype == DType::kBF16) {
            widen_bf16(half, item.table.cols, to);
          } else {
            for (int64_t c = 0; c < item.table.cols; ++c) to[c] = from_f16(half[c]);
          }
        }
      });
}

// A task owns columns of the table: rows that name the same index are added one after another.
void CpuBackend::scatter_add_rows(std::span<const GatherItem> items) {
  for (const GatherItem& item : items) {
    CHECK(item.table.dtype == DType::kF32);
    check_gather(item);
  }
  for_blocks(
      items, Cut{INT64_MAX / 2, kSumColumns}, [](const GatherItem& item) { return item.table; },
      [](const GatherItem& item, const Block& block) {
        for (int64_t r = 0; r < item.rows.rows; ++r) {
          const Matrix to = item.table.row_range(i32_row(item.indices, r)[0], 1);
          HWY_DYNAMIC_DISPATCH(add_block)
          (item.rows.row_range(r, 1).column_range(block.column, block.cols),
           to.column_range(block.column, block.cols));
        }
      });
}

}  // namespace coppice
#endif
