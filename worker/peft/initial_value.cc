#include "common/base/check.h"
#include "common/base/random.h"
#include "worker/peft/method.h"

namespace coppice {

Tensor initial_value(const TensorSpec& spec, uint64_t seed,
                     const std::function<std::vector<float>(int32_t token)>& embedding_row) {
  Tensor tensor(spec.shape);
  Random random(stream_key(seed, Purpose::kInitialValue, {name_hash(spec.name)}));
  const Initial& initial = spec.initial;
  switch (initial.kind) {
    case Initial::Kind::kZeros:
      break;
    case Initial::Kind::kOnes:
      tensor.values.assign(tensor.values.size(), 1.0f);
      break;
    case Initial::Kind::kNormal:
      for (float& value : tensor.values) value = float(random.normal() * double(initial.scale));
      break;
    case Initial::Kind::kUniform:
      for (float& value : tensor.values) value = float((2 * random.uniform() - 1) * double(initial.scale));
      break;
    case Initial::Kind::kEmbeddingRows: {
      const size_t rows = size_t(spec.shape[0]), cols = size_t(spec.shape[1]);
      CHECK(initial.tokens.empty() ? initial.vocabulary > 0 : initial.tokens.size() == rows);
      for (size_t r = 0; r < rows; ++r) {
        const int32_t token =
            initial.tokens.empty() ? int32_t(random.below(uint64_t(initial.vocabulary))) : initial.tokens[r];
        const std::vector<float> row = embedding_row(token);
        CHECK(row.size() == cols);
        std::copy(row.begin(), row.end(), tensor.values.begin() + int64_t(r * cols));
      }
      break;
    }
  }
  return tensor;
}

}  // namespace coppice
