#pragma once
// The frozen layers of one stage: blocks [first, end) of a backbone folder, the embedding where the range
// begins with block 0 and the head where it ends with the last. Made once, read by every pack and by
// decoding. Thread: compute thread. Errors: kExhausted from the device; kNotFound, kInvalid, kUnsupported
// from construction, naming the file.

#include <optional>
#include <string>
#include <vector>

#include "worker/backbone/block.h"
#include "worker/backbone/embedding.h"
#include "worker/backbone/head.h"

namespace coppice {

struct Layers {
  // Packs the weights one after the other; the mapped pages of each are released. config outlives this.
  Layers(Backend& backend, const BackboneConfig& config, const std::string& folder, int64_t first,
         int64_t end, DType compute);

  size_t bytes() const;

  std::optional<Embedding> embedding;
  std::vector<Block> blocks;
  std::optional<Head> head;
};

}  // namespace coppice
