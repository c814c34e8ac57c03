#include "coordinator/params/chunks.h"

#include <algorithm>
#include <cstring>

#include "common/base/check.h"

namespace coppice::stored {
namespace {

constexpr size_t kBatchBytes = 1 << 20;  // of chunks written together: their buffers are used again

}  // namespace

void check_format(const KvReader& store) {
  const auto format = store.get(kFormatKey);
  if (format && *format != kFormat) {
    throw invalid("store: its format is {}; {} is accepted", *format, kFormat);
  }
}

std::optional<Tensor> read_part(const KvReader& store, const std::string& job, int64_t version,
                                const proto::StoredTensor& stored, size_t part, std::string& missing) {
  Tensor tensor;
  tensor.shape.assign(stored.shape().begin(), stored.shape().end());
  const size_t bytes = tensor_bytes(stored);
  // Grows with what is really there: a damaged shape may announce anything.
  for (size_t chunk = 0, done = 0; done < bytes; ++chunk) {
    std::string key = chunk_key(job, version, stored.number(), part, chunk);
    const auto value = store.get(key);
    if (!value) {
      missing = std::move(key);
      return std::nullopt;
    }
    const size_t size = std::min(kChunkBytes, bytes - done);
    if (value->size() != size) {
      throw damaged(key, fmt::format("it has {} bytes, its part of shape {} needs {}", value->size(),
                                     shape_string(tensor.shape), size));
    }
    tensor.values.resize((done + size) / sizeof(float));
    std::memcpy(reinterpret_cast<std::byte*>(tensor.values.data()) + done, value->data(), size);
    done += size;
  }
  return tensor;
}

void ChunkWriter::put(const std::string& job, const ShardState& state) {
  CHECK(state.parameters.size() == state.tensors.size() && state.moments.size() == state.tensors.size());
  for (size_t i = 0; i < state.tensors.size(); ++i) {
    const ShardTensor& tensor = state.tensors[i];
    CHECK(state.parameters[i].shape == tensor.shape);
    put(job, state.version, tensor.number, 0, state.parameters[i]);
    for (size_t m = 0; m < state.moments[i].size(); ++m) {
      CHECK(state.moments[i][m].shape == tensor.shape);
      put(job, state.version, tensor.number, m + 1, state.moments[i][m]);
    }
  }
}

void ChunkWriter::put(const std::string& job, int64_t version, int64_t tensor, size_t part,
                      const Tensor& values) {
  const std::string_view bytes(reinterpret_cast<const char*>(values.values.data()),
                               values.values.size() * sizeof(float));
  for (size_t chunk = 0; chunk * kChunkBytes < bytes.size(); ++chunk) {
    const std::string_view piece = bytes.substr(chunk * kChunkBytes, kChunkBytes);
    if (held_bytes_ + piece.size() > kBatchBytes) flush();
    batch_.put(chunk_key(job, version, tensor, part, chunk), std::string(piece));
    held_bytes_ += piece.size();
  }
}

void ChunkWriter::flush() {
  if (!batch_.changes.empty()) store_.write(batch_, false);
  batch_.changes.clear();
  held_bytes_ = 0;
}

}  // namespace coppice::stored
