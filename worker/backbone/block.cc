#include "worker/backbone/block.h"

#include <utility>

#include "common/base/check.h"

namespace coppice {
namespace {

void add(Backend& backend, Matrix x, Matrix y) {  // y += x
  const UnaryItem item{x, y};
  backend.add({&item, 1});
}

}  // namespace

Block::Block(Backend& backend, const BackboneConfig& config, const BackboneWeights& weights, int64_t layer,
             const std::vector<Module>& modules, DType compute)
    : input_norm_(backend, weights.input_norm(layer), config.norm_epsilon),
      mlp_norm_(backend, weights.post_attention_norm(layer), config.norm_epsilon),
      attention_(backend, config, weights, layer, modules, compute),
      mlp_(backend, config, weights, modules, compute) {}

Rows Block::forward(BlockRun& run, Rows x, BlockKept* kept, int64_t kept_rows) const {
  Backend& backend = run.backend;
  const int64_t hidden = x.matrix.cols;
  BlockKept* all = kept != nullptr && !kept->input_only ? kept : nullptr;
  Rows normal = make_rows(backend, run.rows, hidden, run.compute), inverse = make_rows(backend, run.rows, 1);
  input_norm_.forward(backend, x.matrix, normal.matrix, inverse.matrix);
  Rows mid = make_rows(backend, run.rows, hidden);
  attention_.forward(run, normal.matrix, mid.matrix, all ? &all->attention : nullptr, kept_rows);
  run.hooks.sublayer_output(Sublayer::kAttention, mid.matrix);
  add(backend, x.matrix, mid.matrix);
  if (all) all->x_inverse = first_rows(backend, std::move(inverse), kept_rows);
  if (kept) kept->x = first_rows(backend, std::move(x), kept_rows);
  x = {};

  inverse = make_rows(backend, run.rows, 1);
  mlp_norm_.forward(backend, mid.matrix, normal.matrix, inverse.matrix);
  Rows y = make_rows(backend, run.rows, hidden);
  mlp_.forward(run, normal.matrix, y.matrix, all ? &all->mlp : nullptr, kept_rows);
  run.hooks.sublayer_output(Sublayer::kMlp, y.matrix);
  add(backend, mid.matrix, y.matrix);
  if (all) {
    all->mid_inverse = first_rows(backend, std::move(inverse), kept_rows);
    all->mid = first_rows(backend, std::move(mid), kept_rows);
  }
  return y;
}

Rows Block::backward(BlockRun& run, BlockKept& kept, Rows dy, int64_t lower_rows) const {
  Backend& backend = run.backend;
  CHECK(!kept.input_only && dy.matrix.rows == run.rows && lower_rows <= run.rows);
  Rows dmid = backward_mlp(run, kept, std::move(dy));

  // The residual goes on as dmid; hooks that change a gradient in place work on a copy of it.
  const bool changes =
      run.hooks.wants_sublayer(Sublayer::kAttention) || attention_.backward_changes_dy(run.hooks);
  Rows own = changes ? f32_copy_of(backend, dmid.matrix) : Rows{};
  const Matrix dattention = changes ? own.matrix : dmid.matrix;
  run.hooks.sublayer_output_backward(Sublayer::kAttention, dattention);
  Rows normal;
  if (attention_.backward_needs_input(run.hooks)) {
    normal = make_rows(backend, run.rows, dmid.matrix.cols, run.compute);
    input_norm_.forward(backend, kept.x.matrix, normal.matrix, kept.x_inverse.matrix);
  }
  Rows dnormal;
  if (lower_rows > 0) dnormal = make_rows(backend, lower_rows, dmid.matrix.cols);
  attention_.backward(run, std::move(kept.attention), normal.matrix, dattention, dnormal.matrix);
  if (lower_rows == 0) return {};
  const auto lower = [&](const Rows& rows) { return rows.matrix.row_range(0, lower_rows); };
  input_norm_.backward(backend, lower(kept.x), lower(kept.x_inverse), dnormal.matrix, lower(dmid), true);
  dmid.matrix = lower(dmid);
  return dmid;
}

// dmid = dy + the gradient through norm, MLP and hooks.
Rows Block::backward_mlp(BlockRun& run, BlockKept& kept, Rows dy) const {
  Backend& backend = run.backend;
  const bool changes = run.hooks.wants_sublayer(Sublayer::kMlp) || mlp_.backward_changes_dy(run.hooks);
  Rows own = changes ? f32_copy_of(backend, dy.matrix) : Rows{};
  const Matrix dmlp = changes ? own.matrix : dy.matrix;
  run.hooks.sublayer_output_backward(Sublayer::kMlp, dmlp);
  Rows normal;
  if (mlp_.backward_needs_input(run.hooks)) {
    normal = make_rows(backend, run.rows, dy.matrix.cols, run.compute);
    mlp_norm_.forward(backend, kept.mid.matrix, normal.matrix, kept.mid_inverse.matrix);
  }
  Rows dnormal = make_rows(backend, run.rows, dy.matrix.cols);
  mlp_.backward(run, std::move(kept.mlp), normal.matrix, dmlp, dnormal.matrix);
  mlp_norm_.backward(backend, kept.mid.matrix, kept.mid_inverse.matrix, dnormal.matrix, dy.matrix, true);
  kept.mid = {};
  return dy;
}

}  // namespace coppice
