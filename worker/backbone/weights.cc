#include "worker/backbone/weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>

#include <fmt/ranges.h>

#include "common/base/check.h"
#include "common/base/error.h"

namespace coppice {
namespace {

constexpr const char* kEmbedding = "embed_tokens.weight";
constexpr const char* kFinalNorm = "norm.weight";
constexpr const char* kHead = "lm_head.weight";  // never below the prefix

// --- fingerprint. A 64-bit hash by multiply and fold: for each little-endian word w, h = fold((h ^ w) * K),
// where fold is the exclusive or of the two halves of the 128-bit product and K the odd 64-bit fraction of
// the golden ratio. Four lanes take the words of a tensor in turn, so that the multiplier never waits; the
// last word is filled up with zeros.

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;
__extension__ using Wide = unsigned __int128;

uint64_t mix(uint64_t hash, uint64_t word) {
  const Wide product = Wide(hash ^ word) * kGolden;
  return uint64_t(product) ^ uint64_t(product >> 64);
}

uint64_t hash_bytes(std::span<const std::byte> bytes) {
  std::array<uint64_t, 4> lanes = {1, 2, 3, 4};
  const size_t blocks = bytes.size() / 32;
  for (size_t block = 0; block < blocks; ++block) {
    std::array<uint64_t, 4> words;
    std::memcpy(words.data(), bytes.data() + block * 32, 32);
    for (size_t lane = 0; lane < 4; ++lane) lanes[lane] = mix(lanes[lane], words[lane]);
  }
  std::array<uint64_t, 4> rest{};
  if (blocks * 32 < bytes.size())
    std::memcpy(rest.data(), bytes.data() + blocks * 32, bytes.size() - blocks * 32);
  uint64_t hash = bytes.size();
  for (size_t lane = 0; lane < 4; ++lane) hash = mix(hash, mix(lanes[lane], rest[lane]));
  return hash;
}

uint64_t hash_text(std::string_view text) {
  return hash_bytes(std::as_bytes(std::span(text)));
}

// Everything that a config says about arithmetic, as one line. Numbers are written with all their digits.
std::string canonical(const BackboneConfig& c) {
  const auto optional = [](const std::optional<double>& value) {
    return value ? fmt::format("{}", *value) : "none";
  };
  const Rope& r = c.rope;
  return fmt::format(
      "{} {} {} {} {} {} {} {} {} {} {} | {} {} {} {} {} {} {} {} {} {} {} {} | {} {} {} {} {} | {}",
      c.family, c.hidden, c.intermediate, c.layers, c.heads, c.kv_heads, c.head_dim, c.vocabulary,
      c.max_positions, c.norm_epsilon, int(c.activation), int(r.type), r.theta, r.factor,
      r.original_max_positions, r.low_freq_factor, r.high_freq_factor, r.beta_fast, r.beta_slow,
      optional(r.attention_factor), optional(r.mscale), optional(r.mscale_all_dim), r.truncate,
      c.tied_embeddings, c.qkv_bias, c.output_bias, c.mlp_bias, c.qk_norm, fmt::join(c.window, ","));
}

std::string layer_name(int64_t layer, std::string_view rest) {
  return fmt::format("layers.{}.{}", layer, rest);
}

std::string projection_name(int64_t layer, Slot slot, std::string_view what) {
  return layer_name(layer, fmt::format("{}.{}", module_name(slot), what));
}

bool has_bias(const BackboneConfig& config, Slot slot) {
  switch (slot) {
    case Slot::kQuery:
    case Slot::kKey:
    case Slot::kValue:
      return config.qkv_bias;
    case Slot::kAttentionOut:
      return config.output_bias;
    case Slot::kGate:
    case Slot::kUp:
    case Slot::kDown:
      return config.mlp_bias;
    case Slot::kEmbedding:
    case Slot::kHead:
      return false;
  }
  return false;
}

std::map<std::string, Shape> expected_tensors(const BackboneConfig& config, const std::string& prefix) {
  std::map<std::string, Shape> expected;
  for (const Module& module : backbone_modules(config)) {
    if (module.slot == Slot::kEmbedding || module.slot == Slot::kHead) continue;
    expected[prefix + projection_name(module.layer, module.slot, "weight")] = {module.out, module.in};
    if (module.bias) expected[prefix + projection_name(module.layer, module.slot, "bias")] = {module.out};
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    expected[prefix + layer_name(layer, "input_layernorm.weight")] = {config.hidden};
    expected[prefix + layer_name(layer, "post_attention_layernorm.weight")] = {config.hidden};
    if (config.qk_norm) {
      expected[prefix + layer_name(layer, "self_attn.q_norm.weight")] = {config.head_dim};
      expected[prefix + layer_name(layer, "self_attn.k_norm.weight")] = {config.head_dim};
    }
  }
  expected[prefix + kEmbedding] = {config.vocabulary, config.hidden};
  expected[prefix + kFinalNorm] = {config.hidden};
  if (!config.tied_embeddings) expected[kHead] = {config.vocabulary, config.hidden};
  return expected;
}

bool floating(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// Buffers that older versions saved; they are computed from the config.
bool is_rotary_buffer(std::string_view name) {
  return name.ends_with("rotary_emb.inv_freq");
}

}  // namespace

BackboneWeights::BackboneWeights(const std::string& folder, const BackboneConfig& config)
    : path_(folder), folder_(SafetensorsFolder::open(folder)), config_(config) {
  // The bare model without its head is saved without the prefix.
  prefix_ = folder_.contains(kEmbedding) ? "" : "model.";
  expected_ = expected_tensors(config, prefix_);
  for (const auto& [name, shape] : expected_) {
    if (!folder_.contains(name)) {
      throw invalid("{}: tensor {} is missing; the config asks for it with shape {}", path_, name,
                    shape_string(shape));
    }
    const TensorView& tensor = folder_.tensor(name);
    if (tensor.shape != shape) {
      throw invalid("{}: tensor {} has shape {}; the config asks for {}", path_, name,
                    shape_string(tensor.shape), shape_string(shape));
    }
    if (!floating(tensor.dtype)) {
      throw unsupported("{}: tensor {} is {}; F32, F16 and BF16 are supported", path_, name,
                        dtype_name(tensor.dtype));
    }
  }
  check_leftovers();
}

void BackboneWeights::check_leftovers() const {
  for (const std::string& name : folder_.names()) {
    if (expected_.contains(name) || is_rotary_buffer(name)) continue;
    if (name != kHead) {
      throw unsupported("{}: tensor {} has no place in a {} backbone as its config describes it", path_, name,
                        config_.family);
    }
    // A tied head that was saved all the same must be what it is tied to.
    const TensorView &head = folder_.tensor(kHead), &table = embedding();
    if (head.dtype != table.dtype || head.shape != table.shape ||
        !std::ranges::equal(head.bytes, table.bytes)) {
      throw invalid(
          "{}: tensor {} differs from {}, to which tie_word_embeddings ties it; only one of the two can be "
          "meant",
          path_, kHead, prefix_ + kEmbedding);
    }
    folder_.release(kHead);
    release(table);
  }
}

const TensorView& BackboneWeights::find(const std::string& name) const {
  CHECK(expected_.contains(name));
  return folder_.tensor(name);
}

const TensorView& BackboneWeights::projection(int64_t layer, Slot slot) const {
  return find(prefix_ + projection_name(layer, slot, "weight"));
}

std::optional<TensorView> BackboneWeights::bias(int64_t layer, Slot slot) const {
  if (!has_bias(config_, slot)) return std::nullopt;
  return find(prefix_ + projection_name(layer, slot, "bias"));
}

const TensorView& BackboneWeights::input_norm(int64_t layer) const {
  return find(prefix_ + layer_name(layer, "input_layernorm.weight"));
}
const TensorView& BackboneWeights::post_attention_norm(int64_t layer) const {
  return find(prefix_ + layer_name(layer, "post_attention_layernorm.weight"));
}
const TensorView& BackboneWeights::query_norm(int64_t layer) const {
  return find(prefix_ + layer_name(layer, "self_attn.q_norm.weight"));
}
const TensorView& BackboneWeights::key_norm(int64_t layer) const {
  return find(prefix_ + layer_name(layer, "self_attn.k_norm.weight"));
}
const TensorView& BackboneWeights::final_norm() const {
  return find(prefix_ + kFinalNorm);
}
const TensorView& BackboneWeights::embedding() const {
  return find(prefix_ + kEmbedding);
}
const TensorView& BackboneWeights::head() const {
  return config_.tied_embeddings ? embedding() : find(kHead);
}

void BackboneWeights::release(const TensorView& tensor) const {
  for (const auto& [name, shape] : expected_) {
    if (folder_.tensor(name).bytes.data() == tensor.bytes.data()) return folder_.release(name);
  }
}

uint64_t BackboneWeights::fingerprint() const {
  // Without the prefix, which says only how the file was saved.
  std::map<std::string, std::string> names;
  for (const auto& [name, shape] : expected_) {
    names[name.starts_with(prefix_) ? name.substr(prefix_.size()) : name] = name;
  }
  uint64_t hash = hash_text(canonical(config_));
  for (const auto& [own, name] : names) {
    const TensorView& tensor = folder_.tensor(name);
    hash = mix(hash, hash_text(own));
    hash = mix(hash, hash_text(fmt::format("{} {}", dtype_name(tensor.dtype), shape_string(tensor.shape))));
    hash = mix(hash, hash_bytes(tensor.bytes));
    folder_.release(name);
  }
  return hash;
}

int64_t BackboneWeights::parameters() const {
  int64_t count = 0;
  for (const auto& [name, shape] : expected_) count += element_count(shape);
  return count;
}

}  // namespace coppice
