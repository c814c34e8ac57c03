#include "worker/backbone/embedding.h"

#include "common/base/error.h"

namespace coppice {

Embedding::Embedding(Backend& backend, const BackboneWeights& weights, const Module& module)
    : module_(module) {
  const TensorView& table = weights.embedding();
  buffer_ = backend.allocate(table.bytes.size());
  table_ = buffer_.matrix(table.shape[0], table.shape[1], table.dtype);
  backend.upload(table.bytes.data(), table_);
  weights.release(table);
}

Rows Embedding::forward(HookCalls& hooks, const PackRows& pack) const {
  Rows rows = make_rows(hooks.backend(), pack.pack().rows, table_.cols);
  const GatherItem item{table_, pack.token_ids(), rows.matrix};
  hooks.backend().gather_rows({&item, 1});
  hooks.projection_output(module_, {}, rows.matrix);
  hooks.token_rows(rows.matrix);
  return rows;
}

void Embedding::backward(HookCalls& hooks, Rows drows) const {
  hooks.token_rows_backward(drows.matrix);
  hooks.projection_output_backward(module_, {}, drows.matrix, {});
}

std::vector<float> Embedding::row(Backend& backend, int32_t token) const {
  if (token < 0 || token >= table_.rows)
    throw invalid("token {} is not in the backbone's vocabulary of {}", token, table_.rows);
  Buffer index = backend.allocate(sizeof(token));
  backend.upload(&token, index.matrix(1, 1, DType::kI32));
  const Rows row = make_rows(backend, 1, table_.cols);
  const GatherItem item{table_, index.matrix(1, 1, DType::kI32), row.matrix};
  backend.gather_rows({&item, 1});
  std::vector<float> values(size_t(table_.cols));
  backend.download(row.matrix, values.data());
  return values;
}

}  // namespace coppice
