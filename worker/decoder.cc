#include "worker/decoder.h"

#include <utility>

#include "common/base/check.h"
#include "common/base/error.h"

namespace coppice {

LayersDecoder::LayersDecoder(Backend& backend, const BackboneConfig& config, DType compute,
                             const Layers& layers, const AdapterCache& adapters, RotaryTable& rotary,
                             const std::string& job, int64_t max_positions)
    : backend_(backend),
      config_(config),
      compute_(compute),
      layers_(layers),
      adapters_(adapters),
      rotary_(rotary),
      job_(job),
      max_positions_(max_positions),
      cache_(make_kv_cache(backend, config.layers, max_positions, config.kv_size(), compute)) {
  CHECK(layers.embedding && layers.head);
  CHECK(job.empty() || adapters.find(job) != nullptr);
}

std::vector<float> LayersDecoder::append(std::span<const int32_t> tokens) {
  CHECK(!tokens.empty());
  PackSequence sequence;
  Segment segment;
  if (const auto cached = adapters_.find(job_)) {
    segment.job = job_;
    segment.version = cached->version;
    sequence.first_position = cached->adapter.config->prefix_rows() + rows_;
    if (rows_ == 0) sequence.virtual_rows = cached->adapter.config->virtual_rows();
  } else {
    sequence.first_position = rows_;
  }
  sequence.tokens = int64_t(tokens.size());
  const int64_t rows = sequence.rows();
  if (rows_ + rows > max_positions_)
    throw invalid("a sequence of {} positions does not fit: {} were asked for", rows_ + rows, max_positions_);
  segment.rows = rows;
  segment.sequences = {sequence};
  Pack pack;
  pack.rows = rows;
  pack.segments = {segment};
  PackTokens ids(size_t(sequence.virtual_rows), 0);
  ids.insert(ids.end(), tokens.begin(), tokens.end());

  const PackRows pack_rows(backend_, config_, pack, &ids, adapters_, rotary_);
  HookCalls embedding_hooks(backend_, config_, compute_, pack_rows.uses(), -1, rows, nullptr);
  Rows hidden = layers_.embedding->forward(embedding_hooks, pack_rows);
  for (size_t l = 0; l < layers_.blocks.size(); ++l) {
    HookCalls hooks(backend_, config_, compute_, pack_rows.uses(), int64_t(l), rows, nullptr);
    BlockRun run{backend_, compute_, pack_rows, hooks, rows, &cache_[l]};
    hidden = layers_.blocks[l].forward(run, std::move(hidden), nullptr, 0);
  }
  rows_ += rows;
  return layers_.head->logits(pack_rows, hidden.matrix.row_range(rows - 1, 1));
}

}  // namespace coppice
