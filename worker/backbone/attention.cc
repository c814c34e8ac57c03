#include "worker/backbone/attention.h"

#include <cmath>
#include <utility>

#include "common/base/check.h"

namespace coppice {
Attention::Attention(Backend& backend, const BackboneConfig& config, const BackboneWeights& weights,
                     int64_t layer, const std::vector<Module>& modules, DType compute)
    : layer_(layer),
      shape_{int(config.heads), int(config.kv_heads), int(config.head_dim),
             float(1 / std::sqrt(double(config.head_dim)))},
      window_(config.window[size_t(layer)]),
      query_(make_projection(backend, weights, modules[size_t(Slot::kQuery)], compute)),
      key_(make_projection(backend, weights, modules[size_t(Slot::kKey)], compute)),
      value_(make_projection(backend, weights, modules[size_t(Slot::kValue)], compute)),
      output_(make_projection(backend, weights, modules[size_t(Slot::kAttentionOut)], compute)) {
  if (!config.qk_norm) return;
  query_norm_.emplace(backend, weights.query_norm(layer), config.norm_epsilon);
  key_norm_.emplace(backend, weights.key_norm(layer), config.norm_epsilon);
}

size_t Attention::bytes() const {
  size_t bytes = query_.bytes() + key_.bytes() + value_.bytes() + output_.bytes();
  if (query_norm_) bytes += query_norm_->bytes() + key_norm_->bytes();
  return bytes;
}

void Attention::forward(BlockRun& run, Matrix x, Matrix y, AttentionKept* kept, int64_t kept_rows) const {
  Backend& backend = run.backend;
  const int64_t q_size = query_.module().out, kv_size = key_.module().out;
  Rows q = make_rows(backend, run.rows, q_size), k = make_rows(backend, run.rows, kv_size);
  Rows v = make_rows(backend, run.rows, kv_size, run.compute);
  query_.forward(run.hooks, x, q.matrix);
  key_.forward(run.hooks, x, k.matrix);
  value_.forward(run.hooks, x, v.matrix);
  if (query_norm_) {
    Rows q_inverse, k_inverse;
    Rows q_normal = normalize_heads(run, *query_norm_, q, q_inverse);
    Rows k_normal = normalize_heads(run, *key_norm_, k, k_inverse);
    std::swap(q, q_normal);
    std::swap(k, k_normal);
    if (kept != nullptr) {
      kept->q = first_rows(backend, std::move(q_normal), kept_rows);
      kept->k = first_rows(backend, std::move(k_normal), kept_rows);
      kept->q_inverse = std::move(q_inverse);
      kept->k_inverse = std::move(k_inverse);
    }
  }
  q = rotate(run, std::move(q), false, run.compute);
  k = rotate(run, std::move(k), false, run.compute);
  Rows out = make_rows(backend, run.rows, q_size, run.compute), log_sum;
  if (kept != nullptr) log_sum = make_rows(backend, run.rows, shape_.heads);
  std::vector<AttentionItem> forward_items =
      items(run, q.matrix, k.matrix, v.matrix, out.matrix, log_sum.matrix);
  if (run.cache != nullptr) append(run, forward_items);
  backend.attention(shape_, forward_items, run.compute);
  if (kept != nullptr) {
    if (!query_norm_) {
      kept->q = first_rows(backend, std::move(q), kept_rows);
      kept->k = first_rows(backend, std::move(k), kept_rows);
    }
    kept->v = first_rows(backend, std::move(v), kept_rows);
    kept->log_sum = first_rows(backend, std::move(log_sum), kept_rows);
  }
  for (Rows* rows : {&q, &k, &v, &log_sum}) *rows = {};
  output_.forward(run.hooks, out.matrix, y);
  if (kept != nullptr) kept->out = first_rows(backend, std::move(out), kept_rows);
}

bool Attention::backward_needs_input(const HookCalls& hooks) const {
  return query_.backward_needs_input(hooks) || key_.backward_needs_input(hooks) ||
         value_.backward_needs_input(hooks);
}

void Attention::backward(BlockRun& run, AttentionKept kept, Matrix x, Matrix dy, Matrix dx) const {
  Backend& backend = run.backend;
  Rows dout = make_rows(backend, run.rows, query_.module().out, run.compute);
  output_.backward(run.hooks, kept.out.matrix, dy, dout.matrix, false);
  Rows q, k;  // as the attention saw them
  if (query_norm_) {
    q = rotate(run, normalize_heads(run, *query_norm_, kept.q, kept.q_inverse), false, run.compute);
    k = rotate(run, normalize_heads(run, *key_norm_, kept.k, kept.k_inverse), false, run.compute);
  } else {
    std::swap(q, kept.q);
    std::swap(k, kept.k);
  }
  Rows dq = make_rows(backend, run.rows, query_.module().out),
       dk = make_rows(backend, run.rows, key_.module().out);
  Rows dv = make_rows(backend, run.rows, key_.module().out);
  std::vector<AttentionBackwardItem> backward_items;
  backward_items.reserve(run.pack.sequences().size());
  for (const AttentionItem& item :
       items(run, q.matrix, k.matrix, kept.v.matrix, kept.out.matrix, kept.log_sum.matrix)) {
    const RowsOfSequence& sequence = run.pack.sequences()[backward_items.size()];
    const Method::KeysValues pairs = prefix(run, sequence.segment);
    const auto part = [&](const Rows& rows) { return rows.matrix.row_range(sequence.row, sequence.rows); };
    backward_items.push_back({item, part(dout), part(dq), part(dk), part(dv), pairs.dkeys, pairs.dvalues});
  }
  backend.attention_backward(shape_, backward_items, run.compute);
  for (Rows* rows : {&dout, &q, &k, &kept.out, &kept.v}) *rows = {};
  // What only products read from here on is rounded here.
  const auto dtype_of = [&](const Projection& projection) {
    return query_norm_ || projection.backward_changes_dy(run.hooks) ? DType::kF32 : run.compute;
  };
  dq = rotate(run, std::move(dq), true, dtype_of(query_));
  dk = rotate(run, std::move(dk), true, dtype_of(key_));
  if (query_norm_) {
    dq = normalize_heads_backward(run, *query_norm_, kept.q, kept.q_inverse, dq);
    dk = normalize_heads_backward(run, *key_norm_, kept.k, kept.k_inverse, dk);
  }
  query_.backward(run.hooks, x, dq.matrix, dx, false);
  key_.backward(run.hooks, x, dk.matrix, dx, true);
  value_.backward(run.hooks, x, dv.matrix, dx, true);
}

std::vector<AttentionItem> Attention::items(const BlockRun& run, Matrix q, Matrix k, Matrix v, Matrix out,
                                            Matrix log_sum) const {
  std::vector<AttentionItem> items;
  items.reserve(run.pack.sequences().size());
  for (const RowsOfSequence& sequence : run.pack.sequences()) {
    if (sequence.row >= run.rows) break;
    const auto part = [&](Matrix rows) {
      return rows.empty() ? Matrix{} : rows.row_range(sequence.row, sequence.rows);
    };
    const Method::KeysValues pairs = prefix(run, sequence.segment);
    items.push_back({part(q), part(k), part(v), pairs.keys, pairs.values, window_, part(out), part(log_sum)});
  }
  return items;
}

// The one sequence that is decoded: its new keys and values join the cache, and the item reads all of them.
void Attention::append(const BlockRun& run, std::vector<AttentionItem>& items) const {
  CHECK(items.size() == 1);
  KvLayer& cache = *run.cache;
  const UnaryItem copies[] = {{items[0].k, cache.keys.matrix.row_range(cache.length, run.rows)},
                              {items[0].v, cache.values.matrix.row_range(cache.length, run.rows)}};
  run.backend.copy(copies);
  cache.length += run.rows;
  items[0].k = cache.keys.matrix.row_range(0, cache.length);
  items[0].v = cache.values.matrix.row_range(0, cache.length);
}

Method::KeysValues Attention::prefix(const BlockRun& run, size_t segment) const {
  const CachedAdapter* cached = run.pack.adapter(segment);
  if (cached == nullptr || !cached->adapter.config->hooks().keys_and_values) return {};
  return cached->adapter.config->method().keys_and_values(cached->adapter, layer_);
}

Rows Attention::rotate(const BlockRun& run, Rows x, bool transposed, DType dtype) const {
  Rows turned;
  if (dtype != DType::kF32) turned = make_rows(run.backend, run.rows, x.matrix.cols, dtype);
  Rows& to = dtype == DType::kF32 ? x : turned;
  run.backend.rotary(x.matrix, run.pack.cosines().row_range(0, run.rows),
                     run.pack.sines().row_range(0, run.rows), shape_.head_dim, transposed, to.matrix);
  return std::move(to);
}

Rows Attention::normalize_heads(const BlockRun& run, const Norm& norm, const Rows& raw, Rows& inverse) const {
  const int64_t heads = raw.matrix.cols / shape_.head_dim, rows = run.rows * heads;
  Rows normal = make_rows(run.backend, run.rows, raw.matrix.cols);
  inverse = make_rows(run.backend, rows, 1);
  norm.forward(run.backend, raw.matrix.reshaped(rows, shape_.head_dim),
               normal.matrix.reshaped(rows, shape_.head_dim), inverse.matrix);
  return normal;
}

Rows Attention::normalize_heads_backward(const BlockRun& run, const Norm& norm, const Rows& raw,
                                         const Rows& inverse, const Rows& dy) const {
  const int64_t rows = run.rows * (raw.matrix.cols / shape_.head_dim);
  Rows dx = make_rows(run.backend, run.rows, raw.matrix.cols);
  norm.backward(run.backend, raw.matrix.reshaped(rows, shape_.head_dim), inverse.matrix.row_range(0, rows),
                dy.matrix.reshaped(rows, shape_.head_dim), dx.matrix.reshaped(rows, shape_.head_dim), false);
  return dx;
}

}  // namespace coppice
