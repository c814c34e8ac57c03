#pragma once
// A family of backbones: how its config.json is read, and nothing else. All families share one block; what
// differs between them (biases, norms on q and k, windows, defaults) ends up as numbers in BackboneConfig. A
// new family is a file here that defines a Family, and one line in families.cc. Thread: any. Errors of read:
// kInvalid, kUnsupported naming file and key.

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "common/io/keys.h"
#include "worker/backbone/config.h"

namespace coppice {

// What transformers takes where config.json leaves a key out.
struct FamilyDefaults {
  int64_t hidden = 4096;
  int64_t intermediate = 0;
  int64_t layers = 32;
  int64_t heads = 32;
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t head_dim = 0;  // 0: hidden / heads
  int64_t vocabulary = 0;
  int64_t max_positions = 0;
  std::optional<int32_t> bos, eos;
};

struct Family {
  std::string_view name;        // model_type
  std::string_view class_name;  // of its classes in transformers: "Llama" of LlamaForCausalLM and LlamaModel
  FamilyDefaults defaults;
  // Reads the keys that are the family's own; what all share (sizes, rope, activation) stands in config
  // already. json: the same object, for the difference between a key that is absent and one that is null.
  void (*read)(Keys& keys, const Json& json, BackboneConfig& config);
};

extern const Family kLlama, kMistral, kQwen2, kQwen3;
std::span<const Family* const> backbone_families();

// --- what several families read alike

// sliding_window: a whole number of at least 1; null means none (0), absent the default.
int64_t read_window(Keys& keys, const Json& json, int64_t absent);
// layer_types, one of "full_attention" and "sliding_attention" a layer, agrees with the windows that the
// family computes; absent is fine.
void check_layer_types(Keys& keys, const BackboneConfig& config);
// use_sliding_window, sliding_window, max_window_layers and layer_types as Qwen's configs have them.
void read_qwen_windows(Keys& keys, const Json& json, BackboneConfig& config);

}  // namespace coppice
