#include "worker/backbone/embedding.h"

#include "common/base/error.h"

namespace coppice {

Embedding::Embedding(Backend& backend, const BackboneWeights& weights, const Module& module,
                     const FrozenWeight* head)
    : module_(module), head_(head != nullptr && head->exact() ? head : nullptr) {
  if (head_ != nullptr) return;
  const TensorView& table = weights.embedding();
  buffer_ = backend.allocate(table.bytes.size());
  table_ = buffer_.matrix(table.shape[0], table.shape[1], table.dtype);
  backend.upload(table.bytes.data(), table_);
  weights.release(table);
}

void Embedding::gather(Backend& backend, Matrix token_ids, Matrix rows) const {
  if (head_ != nullptr) return backend.weight_rows(*head_, token_ids, rows);
  const GatherItem item{table_, token_ids, rows};
  backend.gather_rows({&item, 1});
}

Rows Embedding::forward(HookCalls& hooks, const PackRows& pack) const {
  Rows rows = make_rows(hooks.backend(), pack.pack().rows, module_.in);
  gather(hooks.backend(), pack.token_ids(), rows.matrix);
  hooks.projection_output(module_, {}, rows.matrix);
  hooks.token_rows(rows.matrix);
  return rows;
}

void Embedding::backward(HookCalls& hooks, Rows drows) const {
  hooks.token_rows_backward(drows.matrix);
  hooks.projection_output_backward(module_, {}, drows.matrix);
  hooks.projection_branch_backward(module_, {}, drows.matrix, {});
}

std::vector<float> Embedding::row(Backend& backend, int32_t token) const {
  if (token < 0 || token >= module_.out)
    throw invalid("token {} is not in the backbone's vocabulary of {}", token, module_.out);
  Buffer index = backend.allocate(sizeof(token));
  backend.upload(&token, index.matrix(1, 1, DType::kI32));
  const Rows row = make_rows(backend, 1, module_.in);
  gather(backend, index.matrix(1, 1, DType::kI32), row.matrix);
  std::vector<float> values(size_t(module_.in));
  backend.download(row.matrix, values.data());
  return values;
}

}  // namespace coppice
