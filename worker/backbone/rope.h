#pragma once
// Reads the rotary embedding of a config.json, as transformers 4 wrote it (rope_theta beside rope_scaling,
// whose type may stand under "type") and as 5 writes it (rope_parameters with rope_theta inside). Thread:
// any. Errors: kInvalid, kUnsupported naming file and key.

#include "common/io/keys.h"
#include "worker/backbone/config.h"

namespace coppice {

// Asks keys for every key of the rotary embedding. max_positions: max_position_embeddings.
Rope read_rope(Keys& keys, int64_t max_positions);

}  // namespace coppice
