#include "worker/backbone/mlp.h"

#include <utility>

namespace coppice {
Mlp::Mlp(Backend& backend, const BackboneConfig& config, const BackboneWeights& weights,
         const std::vector<Module>& modules, DType compute)
    : activation_(config.activation),
      gate_(make_projection(backend, weights, modules[size_t(Slot::kGate)], compute)),
      up_(make_projection(backend, weights, modules[size_t(Slot::kUp)], compute)),
      down_(make_projection(backend, weights, modules[size_t(Slot::kDown)], compute)) {}

void Mlp::forward(BlockRun& run, Matrix x, Matrix y, MlpKept* kept, int64_t kept_rows) const {
  Backend& backend = run.backend;
  const int64_t width = gate_.module().out;
  // The widest rows of a block: in bfloat16 these are rounded as well, so that the backward, which computes
  // the product again, sees what the forward saw.
  Rows gate = make_rows(backend, run.rows, width, run.compute),
       up = make_rows(backend, run.rows, width, run.compute);
  gate_.forward(run.hooks, x, gate.matrix);
  up_.forward(run.hooks, x, up.matrix);
  Rows product = make_rows(backend, run.rows, width, run.compute);
  backend.gated_activation(activation_, gate.matrix, up.matrix, product.matrix);
  if (kept != nullptr) {
    kept->gate = first_rows(backend, std::move(gate), kept_rows);
    kept->up = first_rows(backend, std::move(up), kept_rows);
  }
  gate = {};
  up = {};
  down_.forward(run.hooks, product.matrix, y, true);
}

void Mlp::backward(BlockRun& run, MlpKept kept, Matrix x, Matrix dy, Matrix dx) const {
  Backend& backend = run.backend;
  const Matrix gate = kept.gate.matrix, up = kept.up.matrix;
  Rows dproduct = make_rows(backend, run.rows, gate.cols, run.compute);
  {
    Rows product;
    if (down_.backward_needs_input(run.hooks)) {
      product = make_rows(backend, run.rows, gate.cols, run.compute);
      backend.gated_activation(activation_, gate, up, product.matrix);
    }
    down_.backward(run.hooks, product.matrix, dy, dproduct.matrix, false);
  }
  // The gradients take the places of gate and up, where no hook is to change them in float32.
  Rows dgate, dup;
  if (gate.dtype != DType::kF32 &&
      (gate_.backward_changes_dy(run.hooks) || up_.backward_changes_dy(run.hooks))) {
    dgate = make_rows(backend, run.rows, gate.cols);
    dup = make_rows(backend, run.rows, gate.cols);
  } else {
    dgate = std::move(kept.gate);
    dup = std::move(kept.up);
  }
  backend.gated_activation_backward(activation_, gate, up, dproduct.matrix, dgate.matrix, dup.matrix);
  dproduct = {};
  kept = {};
  gate_.backward(run.hooks, x, dgate.matrix, dx, false);
  up_.backward(run.hooks, x, dup.matrix, dx, true);
}

}  // namespace coppice
