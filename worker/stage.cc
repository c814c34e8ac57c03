#include "worker/stage.h"

#include <deque>

#include "common/base/check.h"
#include "common/base/error.h"
#include "worker/activations.h"
#include "worker/backbone/layers.h"
#include "worker/decoder.h"

namespace coppice {

struct Stage::Impl {
  Impl(Backend& the_backend, const BackboneConfig& the_config, const std::string& folder,
       const StageOptions& the_options)
      : backend(the_backend),
        config(the_config),
        options(the_options),
        layers(backend, config, folder, options.first_layer, options.end_layer, options.compute),
        rotary(config),
        adapters(backend, config, [this](const TensorSpec& spec) { return lives_here(spec); }) {}

  bool lives_here(const TensorSpec& spec) const {
    if (spec.layer < 0) return options.holds_embedding();
    if (spec.layer >= config.layers) return options.holds_head(config);
    return spec.layer >= options.first_layer && spec.layer < options.end_layer;
  }
  PackActivations& begin(const Pack& pack, const PackTokens* tokens);
  PackActivations& find(const Pack& pack);
  HookCalls hooks(const PackActivations& pack, int64_t layer, int64_t rows, HookStore* store) {
    return HookCalls(backend, config, options.compute, pack.rows->uses(), layer, rows, store);
  }
  Rows forward_blocks(PackActivations& pack, Rows rows);
  Rows backward_block(PackActivations& pack, int64_t layer, Rows drows);

  Backend& backend;
  const BackboneConfig config;
  const StageOptions options;
  const Layers layers;
  RotaryTable rotary;
  AdapterCache adapters;
  std::deque<PackActivations> packs;  // in flight, in the order of their forwards
};

PackActivations& Stage::Impl::begin(const Pack& pack, const PackTokens* tokens) {
  for (const PackActivations& other : packs) CHECK(other.rows->pack().id != pack.id);
  PackActivations activations;
  activations.rows = std::make_unique<PackRows>(backend, config, pack, tokens, adapters, rotary);
  activations.blocks.resize(layers.blocks.size());
  packs.push_back(std::move(activations));
  return packs.back();
}

PackActivations& Stage::Impl::find(const Pack& pack) {
  for (PackActivations& activations : packs)
    if (activations.rows->pack().id == pack.id) return activations;
  CHECK(!"the pack was not begun here");
  std::abort();
}

Rows Stage::Impl::forward_blocks(PackActivations& activations, Rows rows) {
  const Pack& pack = activations.rows->pack();
  CHECK(rows.matrix.rows == pack.rows && rows.matrix.cols == config.hidden);
  for (size_t b = 0; b < layers.blocks.size(); ++b) {
    const int64_t layer = options.first_layer + int64_t(b), kept_rows = pack.backward_rows(layer);
    BlockKept& kept = activations.blocks[b];
    kept.input_only = pack.checkpointing;
    HookCalls calls =
        hooks(activations, layer, pack.rows, kept_rows > 0 && !kept.input_only ? &kept.hooks : nullptr);
    BlockRun run{backend, options.compute, *activations.rows, calls, pack.rows};
    rows = layers.blocks[b].forward(run, std::move(rows), kept_rows > 0 ? &kept : nullptr, kept_rows);
    options.between_layers();
  }
  return rows;
}

Rows Stage::Impl::backward_block(PackActivations& activations, int64_t layer, Rows drows) {
  const Pack& pack = activations.rows->pack();
  const Block& block = layers.blocks[size_t(layer - options.first_layer)];
  BlockKept kept = std::move(activations.blocks[size_t(layer - options.first_layer)]);
  const int64_t rows = pack.backward_rows(layer);
  HookCalls calls = hooks(activations, layer, rows, &kept.hooks);
  BlockRun run{backend, options.compute, *activations.rows, calls, rows};
  if (kept.input_only) {
    kept.input_only = false;
    block.forward(run, std::move(kept.x), &kept, rows);
  }
  return block.backward(run, kept, std::move(drows), pack.backward_rows(layer - 1));
}

Stage::Stage(Backend& backend, const BackboneConfig& config, const std::string& folder,
             const StageOptions& options) {
  if (const auto reason = backend.unsupported(options.compute))
    throw unsupported("dtype {} on {}: {}", dtype_name(options.compute), backend.name(), *reason);
  impl_ = std::make_unique<Impl>(backend, config, folder, options);
}

Stage::~Stage() = default;

const BackboneConfig& Stage::config() const {
  return impl_->config;
}
const StageOptions& Stage::options() const {
  return impl_->options;
}
size_t Stage::weight_bytes() const {
  return impl_->layers.bytes();
}
bool Stage::lives_here(const TensorSpec& spec) const {
  return impl_->lives_here(spec);
}
size_t Stage::adapter_bytes() const {
  return impl_->adapters.bytes();
}

std::vector<NumberedTensor> Stage::initial_tensors(const MethodConfig& method, uint64_t seed) const {
  const auto embedding_row = [&](int32_t token) {
    return impl_->layers.embedding->row(impl_->backend, token);
  };
  std::vector<NumberedTensor> tensors;
  for (size_t i = 0; i < method.tensors().size(); ++i) {
    const TensorSpec& spec = method.tensors()[i];
    if (lives_here(spec)) tensors.push_back({int64_t(i), initial_value(spec, seed, embedding_row)});
  }
  return tensors;
}

void Stage::set_adapter(const std::string& job, std::shared_ptr<const MethodConfig> method, uint64_t seed,
                        int64_t version, std::span<const NumberedView> tensors, bool training) {
  impl_->adapters.set(job, std::move(method), seed, version, tensors, training);
}

std::vector<NumberedTensor> Stage::take_gradients(const std::string& job) {
  return impl_->adapters.take_gradients(job);
}
void Stage::drop_adapter(const std::string& job) {
  impl_->adapters.drop(job);
}

Rows Stage::forward(const Pack& pack, const PackTokens& tokens) {
  CHECK(options().holds_embedding());
  PackActivations& activations = impl_->begin(pack, &tokens);
  HookCalls hooks = impl_->hooks(activations, -1, pack.rows, &activations.embedding_hooks);
  return impl_->forward_blocks(activations, impl_->layers.embedding->forward(hooks, *activations.rows));
}

Rows Stage::forward(const Pack& pack, Rows rows) {
  CHECK(!options().holds_embedding());
  return impl_->forward_blocks(impl_->begin(pack, nullptr), std::move(rows));
}

std::vector<SegmentLoss> Stage::loss(const Pack& pack, const PackTargets& targets, const Rows& rows,
                                     bool log_probabilities, Rows* drows) {
  CHECK(options().holds_head(config()) && drows != nullptr);
  *drows = {};
  const int64_t lower = pack.backward_rows(config().layers - 1);
  if (lower > 0) *drows = make_rows(impl_->backend, lower, config().hidden);
  PackRows& pack_rows = *impl_->find(pack).rows;
  pack_rows.follow(impl_->backend);
  return impl_->layers.head->loss(pack_rows, targets, rows.matrix, log_probabilities, drows->matrix);
}

Rows Stage::backward(const Pack& pack, Rows drows) {
  PackActivations& activations = impl_->find(pack);
  // Gradients add up in the order of the forwards.
  for (const PackActivations& earlier : impl_->packs) {
    if (&earlier == &activations) break;
    CHECK(earlier.backward_done || earlier.rows->pack().backward_rows(options().end_layer - 1) == 0);
  }
  CHECK(!activations.backward_done);
  activations.backward_done = true;
  activations.rows->follow(impl_->backend);
  for (int64_t layer = options().end_layer - 1; layer >= options().first_layer; --layer) {
    if (pack.backward_rows(layer) == 0) return {};
    CHECK(drows.matrix.rows == pack.backward_rows(layer));
    drows = impl_->backward_block(activations, layer, std::move(drows));
    options().between_layers();
  }
  if (!options().holds_embedding()) return drows;
  if (const int64_t rows = pack.backward_rows(-1); rows > 0) {
    HookCalls hooks = impl_->hooks(activations, -1, rows, &activations.embedding_hooks);
    impl_->layers.embedding->backward(hooks, std::move(drows));
  }
  return {};
}

void Stage::finish(const Pack& pack) {
  std::erase_if(impl_->packs, [&](const PackActivations& a) { return a.rows->pack().id == pack.id; });
}

std::unique_ptr<Stage::Decoder> Stage::decoder(const std::string& job, int64_t max_positions) {
  return std::make_unique<LayersDecoder>(impl_->backend, impl_->config, options().compute, impl_->layers,
                                         impl_->adapters, impl_->rotary, job, max_positions);
}

}  // namespace coppice
