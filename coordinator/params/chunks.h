#pragma once
// Tensors of a state as chunks of a store (proto/README.md), for whoever keeps them: the run folder's store
// and those of shards. Private to this folder. Thread: as the store. Errors: as KvStore; kInvalid naming the
// chunk that is missing or damaged.

#include <optional>
#include <string>

#include "common/store/kv_store.h"
#include "coordinator/params/stored.h"

namespace coppice::stored {

// Throws kInvalid where the store has a format that is not ours.
void check_format(const KvReader& store);

// A part of a tensor, as head_version's chunks hold it. missing: where a chunk is not there, its key is put
// there and nothing comes back.
std::optional<Tensor> read_part(const KvReader& store, const std::string& job, int64_t version,
                                const proto::StoredTensor& tensor, size_t part, std::string& missing);

// Puts values as chunks, and writes the batch whenever it has grown large.
class ChunkWriter {
 public:
  explicit ChunkWriter(KvStore& store) : store_(store) {}
  void put(const std::string& job, const ShardState& state);
  void flush();  // what is left, not synced

 private:
  void put(const std::string& job, int64_t version, int64_t tensor, size_t part, const Tensor& values);

  KvStore& store_;
  Batch batch_;
  size_t held_bytes_ = 0;
};

}  // namespace coppice::stored
