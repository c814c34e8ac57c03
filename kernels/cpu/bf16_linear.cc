#include "kernels/cpu/bf16_linear.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "kernels/cpu/bf16_gemm.h"
#include "kernels/cpu/convert.h"
#include "kernels/host_backend.h"

namespace coppice {
namespace {

constexpr int64_t kPanel = 48;     // columns: the widest tile of bf16_gemm
constexpr int64_t kRowTile = 128;  // rows that share a panel while it is in the second-level cache
constexpr int64_t kDepth = 2048;  // of the rows that are packed at a time: sums that wait in memory cost more
constexpr int64_t kPanelsATask = 8;  // where few row tiles are cut further, for the threads

}  // namespace

// A weight as [depth, cols] of one direction's product.
struct Bf16Projections::Panels {
  int64_t depth = 0, cols = 0;
  Buffer packed;

  int64_t count() const { return (cols + kPanel - 1) / kPanel; }
  int64_t width(int64_t panel) const { return std::min(kPanel, cols - panel * kPanel); }
  Pair* data(int64_t panel) const {
    return reinterpret_cast<Pair*>(packed.data()) + panel * kPanel * pairs_of(depth);
  }
};

class Bf16Projections::Weight final : public FrozenWeight {
 public:
  Weight(int64_t out, int64_t in, Panels panels)
      : FrozenWeight(out, in, panels.packed.bytes()), forward(std::move(panels)) {}

  void set_backward(Panels panels) {
    backward = std::move(panels);
    bytes_ = forward.packed.bytes() + backward.packed.bytes();
  }

  Panels forward, backward;  // backward: empty until it is needed
};

Bf16Projections::Panels Bf16Projections::make_panels(int64_t depth, int64_t cols) {
  return {depth, cols, backend_.allocate(size_t(pairs_of(depth) * cols) * sizeof(Pair))};
}

std::unique_ptr<FrozenWeight> Bf16Projections::prepare(const TensorView& weight) {
  CHECK(weight.shape.size() == 2 && weight.shape[0] > 0 && weight.shape[1] > 0);
  CHECK(weight.dtype == DType::kF32 || weight.dtype == DType::kF16 || weight.dtype == DType::kBF16);
  const int64_t out = weight.shape[0], in = weight.shape[1];
  CHECK(weight.bytes.size() == size_t(out * in) * dtype_size(weight.dtype));
  Panels panels = make_panels(in, out);
  const Buffer rows = backend_.allocate(size_t(kPanel * in * pool_.threads()) * sizeof(float));
  pool_.parallel_for(panels.count(), [&](int64_t panel, int worker) {
    float* const values = reinterpret_cast<float*>(rows.data()) + worker * kPanel * in;
    const int64_t width = panels.width(panel);
    read_f32(weight, panel * kPanel * in, width * in, values);
    pack_pairs_transposed(values, width, in, in, panels.data(panel), width);
  });
  return std::make_unique<Weight>(out, in, std::move(panels));
}

bool Bf16Projections::made(const FrozenWeight& weight) {
  return dynamic_cast<const Weight*>(&weight) != nullptr;
}

// dx = dy W: the same values, paired along W's rows instead of its columns.
Bf16Projections::Panels Bf16Projections::turn(const Panels& forward) {
  const int64_t in = forward.depth, out = forward.cols;
  Panels turned = make_panels(out, in);
  std::memset(turned.packed.data(), 0, turned.packed.bytes());  // the second half of a last pair stays zero
  pool_.parallel_for(forward.count(), [&](int64_t panel, int) {
    const Pair* from = forward.data(panel);
    const int64_t width = forward.width(panel);
    for (int64_t k = 0; k < in; k += 2, from += width) {
      for (int64_t i = k; i < std::min(in, k + 2); ++i) {
        const int64_t to_panel = i / kPanel, to_width = turned.width(to_panel);
        Pair* const to = turned.data(to_panel) + i % kPanel;
        for (int64_t column = 0; column < width; ++column) {
          const int64_t o =
              panel * kPanel + column;  // a panel begins with an even one: no pair has two writers
          const Pair value = from[column] >> (i == k ? 0 : 16) & 0xffff;
          to[o / 2 * to_width] |= value << (o % 2 == 0 ? 0 : 16);
        }
      }
    }
  });
  return turned;
}

void Bf16Projections::multiply(const Panels& panels, Matrix x, Matrix bias, Matrix y, bool accumulate) {
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32 && x.rows == y.rows);
  CHECK(x.cols == panels.depth && y.cols == panels.cols);
  CHECK(bias.empty() || (bias.rows == 1 && bias.cols == y.cols && bias.dtype == DType::kF32));
  const int64_t row_tiles = (x.rows + kRowTile - 1) / kRowTile;
  const bool whole_width = row_tiles >= 4 * pool_.threads();
  const int64_t panels_a_task = whole_width ? panels.count() : kPanelsATask;
  const int64_t columns = (panels.count() + panels_a_task - 1) / panels_a_task;
  const int64_t depth = std::min(panels.depth, kDepth);
  const int64_t a_worker = (std::min(x.rows, kRowTile) * pairs_of(depth) + 15) / 16 * 16;
  const Buffer scratch = backend_.allocate(size_t(a_worker * pool_.threads()) * sizeof(Pair));
  pool_.parallel_for(row_tiles * columns, [&](int64_t task, int worker) {
    Pair* const packed = reinterpret_cast<Pair*>(scratch.data()) + a_worker * worker;
    const int64_t row = task % row_tiles * kRowTile, rows = std::min(kRowTile, x.rows - row);
    const int64_t first = task / row_tiles * panels_a_task,
                  last = std::min(panels.count(), first + panels_a_task);
    for (int64_t k = 0; k < panels.depth; k += kDepth) {
      const int64_t part = std::min(kDepth, panels.depth - k), pairs = pairs_of(part);
      pack_pairs_along(f32_row(x, row) + k, rows, part, x.stride, packed, pairs);
      const PairStore store = k > 0 || accumulate ? PairStore::kGoOn : PairStore::kOverwrite;
      for (int64_t panel = first; panel < last; ++panel) {
        const int64_t width = panels.width(panel);
        multiply_pairs(rows, width, pairs, {packed, pairs, 1}, panels.data(panel) + k / 2 * width, width,
                       f32_row(y, row) + panel * kPanel, y.stride, 1, store);
      }
    }
    if (bias.empty()) return;
    const int64_t begin = first * kPanel, end = std::min(panels.cols, last * kPanel);
    for (int64_t r = row; r < row + rows; ++r) {
      for (int64_t c = begin; c < end; ++c) f32_row(y, r)[c] += bias.as<float>()[c];
    }
  });
}

void Bf16Projections::forward(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y) {
  multiply(static_cast<const Weight&>(weight).forward, x, bias, y, false);
}

void Bf16Projections::backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate) {
  // prepare() makes every weight, and none of them const: what the product gives does not change by packing
  // it.
  auto& w = const_cast<Weight&>(static_cast<const Weight&>(weight));
  if (w.backward.packed.empty()) w.set_backward(turn(w.forward));
  multiply(w.backward, dy, {}, dx, accumulate);
}

}  // namespace coppice
