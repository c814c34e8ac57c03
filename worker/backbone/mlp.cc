#include "worker/backbone/mlp.h"

#include <utility>

namespace coppice {
namespace {

Rows converted(Backend& backend, Matrix from, DType dtype) {
  Rows made;
  made.buffer = backend.allocate(size_t(from.size()) * dtype_size(dtype));
  made.matrix = made.buffer.matrix(from.rows, from.cols, dtype);
  const UnaryItem item{from, made.matrix};
  backend.copy({&item, 1});
  return made;
}

// Gate and up are the widest of what is kept. Where products round their inputs anyway, they are kept
// rounded.
Rows to_keep(Backend& backend, DType compute, Rows rows, int64_t count) {
  if (compute != DType::kBF16 || count == 0) return first_rows(backend, std::move(rows), count);
  return converted(backend, rows.matrix.row_range(0, count), compute);
}

Rows kept_again(Backend& backend, Rows kept) {
  if (kept.matrix.dtype == DType::kF32) return kept;
  return converted(backend, kept.matrix, DType::kF32);
}

}  // namespace

Mlp::Mlp(Backend& backend, const BackboneConfig& config, const BackboneWeights& weights,
         const std::vector<Module>& modules, DType compute)
    : activation_(config.activation),
      gate_(make_projection(backend, weights, modules[size_t(Slot::kGate)], compute)),
      up_(make_projection(backend, weights, modules[size_t(Slot::kUp)], compute)),
      down_(make_projection(backend, weights, modules[size_t(Slot::kDown)], compute)) {}

void Mlp::forward(BlockRun& run, Matrix x, Matrix y, MlpKept* kept, int64_t kept_rows) const {
  Backend& backend = run.backend;
  const int64_t width = gate_.module().out;
  Rows gate = make_rows(backend, run.rows, width), up = make_rows(backend, run.rows, width);
  gate_.forward(run.hooks, x, gate.matrix);
  up_.forward(run.hooks, x, up.matrix);
  Rows product = make_rows(backend, run.rows, width);
  backend.gated_activation(activation_, gate.matrix, up.matrix, product.matrix);
  if (kept != nullptr) {
    kept->gate = to_keep(backend, run.compute, std::move(gate), kept_rows);
    kept->up = to_keep(backend, run.compute, std::move(up), kept_rows);
  }
  gate = {};
  up = {};
  down_.forward(run.hooks, product.matrix, y, true);
}

void Mlp::backward(BlockRun& run, MlpKept kept, Matrix x, Matrix dy, Matrix dx) const {
  Backend& backend = run.backend;
  kept.gate = kept_again(backend, std::move(kept.gate));
  kept.up = kept_again(backend, std::move(kept.up));
  const Matrix gate = kept.gate.matrix, up = kept.up.matrix;
  Rows dproduct = make_rows(backend, run.rows, gate.cols);
  {
    Rows product;
    if (down_.backward_needs_input(run.hooks)) {
      product = make_rows(backend, run.rows, gate.cols);
      backend.gated_activation(activation_, gate, up, product.matrix);
    }
    down_.backward(run.hooks, product.matrix, dy, dproduct.matrix, false);
  }
  backend.gated_activation_backward(activation_, gate, up, dproduct.matrix, gate,
                                    up);  // from here gate and up: their gradients
  dproduct = {};
  gate_.backward(run.hooks, x, gate, dx, false);
  up_.backward(run.hooks, x, up, dx, true);
}

}  // namespace coppice
