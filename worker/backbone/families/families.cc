#include <array>

#include "common/base/error.h"
#include "worker/backbone/families/family.h"

namespace coppice {
namespace {

constexpr std::array kFamilies = {&kLlama, &kMistral, &kQwen2, &kQwen3};

// The windows that layer_types asks for, or nothing where it is absent. "attention" is an older name for full
// attention.
std::optional<std::vector<int64_t>> read_layer_types(Keys& keys, int64_t layers, int64_t window) {
  if (!keys.has("layer_types")) {
    keys.informative("layer_types");
    return std::nullopt;
  }
  const std::vector<std::string> types = keys.texts("layer_types");
  if (int64_t(types.size()) != layers) {
    throw invalid("{} has {} entries; num_hidden_layers is {}", keys.path("layer_types"), types.size(),
                  layers);
  }
  std::vector<int64_t> windows;
  for (const std::string& type : types) {
    const bool full = type == "full_attention" || type == "attention";
    if (!full && type != "sliding_attention") {
      throw unsupported("{} names {}; full_attention and sliding_attention are supported",
                        keys.path("layer_types"), shown(std::string_view(type)));
    }
    if (!full && window == 0) {
      throw invalid("{} names sliding_attention, but sliding_window is off", keys.path("layer_types"));
    }
    windows.push_back(full ? 0 : window);
  }
  return windows;
}

}  // namespace

std::span<const Family* const> backbone_families() {
  return kFamilies;
}

int64_t read_window(Keys& keys, const Json& json, int64_t absent) {
  const std::optional<int64_t> window =
      keys.optional_integer("sliding_window", {.minimum = 1, .maximum = 1e12});
  if (window) return *window;
  return json.contains("sliding_window") ? 0 : absent;
}

void check_layer_types(Keys& keys, const BackboneConfig& config) {
  const int64_t window = config.window.empty() ? 0 : config.window.front();
  const auto windows = read_layer_types(keys, config.layers, window);
  if (windows && *windows != config.window) {
    throw unsupported("{} differs from what a {} backbone does, the same attention in every layer",
                      keys.path("layer_types"), config.family);
  }
}

void read_qwen_windows(Keys& keys, const Json& json, BackboneConfig& config) {
  const bool use = keys.boolean("use_sliding_window", false);
  const int64_t given = read_window(keys, json, 4096);
  const int64_t window = use ? given : 0;
  const int64_t first = keys.integer("max_window_layers", 28, {.minimum = 0});
  if (auto windows = read_layer_types(keys, config.layers, window)) {
    config.window = std::move(*windows);
    return;
  }
  for (int64_t layer = first; layer < config.layers; ++layer) config.window[size_t(layer)] = window;
}

}  // namespace coppice
