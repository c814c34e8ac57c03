#include "worker/peft/targets.h"

#include <algorithm>
#include <limits>
#include <set>

#include <fmt/ranges.h>

#include "common/base/error.h"
#include "worker/peft/pattern.h"

namespace coppice {
namespace {

constexpr int64_t kSlots = int64_t(Slot::kHead) + 1;

bool ends_with_part(const std::string& path, const std::string& part) {
  return path == part || path.ends_with("." + part);
}

// Modules of the HF model that are no projections. A pattern that selects one of them would change something
// else in peft, or fail there; it is refused here.
std::set<std::string> other_modules(const BackboneConfig& backbone, const std::vector<Module>& modules) {
  std::set<std::string> others = {"model.norm", "model.rotary_emb"};
  for (const Module& module : modules) {
    for (size_t dot = module.path.find('.'); dot != std::string::npos; dot = module.path.find('.', dot + 1)) {
      others.insert(module.path.substr(0, dot));
    }
  }
  for (int64_t l = 0; l < backbone.layers; ++l) {
    const std::string block = "model.layers." + std::to_string(l);
    others.insert({block + ".input_layernorm", block + ".post_attention_layernorm", block + ".mlp.act_fn"});
    if (backbone.qk_norm) others.insert({block + ".self_attn.q_norm", block + ".self_attn.k_norm"});
  }
  return others;
}

// One entry of a list, or a regular expression: what a path may match.
struct Matcher {
  std::string text;
  std::optional<ModulePattern> pattern;  // else an ending

  bool matches(const std::string& path) const {
    return pattern ? pattern->matches_whole(path) : ends_with_part(path, text);
  }
};

std::vector<Matcher> read_matchers(Keys& keys, std::string_view key) {
  std::vector<Matcher> matchers;
  const Json* value = keys.value(key);
  if (!value) return matchers;
  if (value->is_string()) {
    const auto text = value->get<std::string>();
    matchers.push_back({text, ModulePattern(text, keys.path(key))});
    return matchers;
  }
  for (std::string& text : keys.texts(key)) matchers.push_back({std::move(text), std::nullopt});
  return matchers;
}

bool any_matches(const std::vector<Matcher>& matchers, const std::string& path) {
  return std::any_of(matchers.begin(), matchers.end(), [&](const Matcher& m) { return m.matches(path); });
}

// The names that a target may have, in order, each once.
std::vector<std::string> module_names(const std::vector<Module>& modules, bool embedding) {
  std::vector<std::string> names;
  for (const Module& module : modules) {
    if (module.slot == Slot::kEmbedding && !embedding) continue;
    if (std::find(names.begin(), names.end(), module.name()) == names.end()) names.push_back(module.name());
  }
  return names;
}

// layers_to_transform and layers_pattern as peft reads them: the number after the pattern (or after the first
// part before a number) decides; a path without one is out.
class LayerFilter {
 public:
  LayerFilter(Keys& keys, int64_t layers, bool list) {
    layers_ = read_layers(keys, "layers_to_transform", layers);
    const Json* pattern = keys.value("layers_pattern");
    const auto patterns = keys.texts("layers_pattern");
    for (const char* key : {"layers_to_transform", "layers_pattern"}) {
      if (keys.has(key) && !list) {
        throw invalid("{} is given, but target_modules is a string; with {} a list is accepted",
                      keys.path(key), key);
      }
    }
    if (pattern && !pattern->empty() && !layers_) {
      throw invalid("{} is {}, but layers_to_transform is missing; it says which layers are meant",
                    keys.path("layers_pattern"), shown(*pattern));
    }
    for (const std::string& text : patterns) {
      patterns_.emplace_back("(?:^|.*?\\.)" + text + "\\.(?<idx>\\d+)\\.", keys.path("layers_pattern"));
    }
    if (patterns_.empty()) patterns_.emplace_back(".*?\\.[^.]*\\.(?<idx>\\d+)\\.", "layers_pattern");
  }

  bool passes(const std::string& path) const {
    if (!layers_ || layers_->empty()) return true;
    for (const ModulePattern& pattern : patterns_) {
      const auto group = pattern.group_at_start(path, "idx");
      if (!group) continue;
      return std::any_of(layers_->begin(), layers_->end(),
                         [&](int64_t layer) { return std::to_string(layer) == *group; });
    }
    return false;
  }

 private:
  std::optional<std::vector<int64_t>> layers_;
  std::vector<ModulePattern> patterns_;
};

// target_modules, resolved to matchers and to what an export writes.
std::vector<Matcher> read_target_matchers(Keys& keys, const std::vector<Module>& modules,
                                          const TargetOptions& options, Json* written) {
  const Json* value = keys.value("target_modules");
  if (!value || (value->is_array() && value->empty())) {
    if (options.fallback.empty() || value) {
      throw invalid("{} is {}; names of modules are accepted: {}", keys.path("target_modules"),
                    value ? "empty" : "missing", fmt::join(module_names(modules, options.embedding), ", "));
    }
    *written = options.fallback;
    std::vector<Matcher> matchers;
    for (const std::string& name : options.fallback) matchers.push_back({name, std::nullopt});
    return matchers;
  }
  std::vector<Matcher> matchers;
  if (value->is_string()) {
    auto text = value->get<std::string>();
    std::string lower = text;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    if (lower == "all-linear") {
      *written = Json::array();
      for (const Module& module : modules) {
        if (module.slot == Slot::kEmbedding || module.slot == Slot::kHead) continue;
        if (std::find(written->begin(), written->end(), module.name()) == written->end()) {
          written->push_back(module.name());
          matchers.push_back({module.name(), std::nullopt});
        }
      }
      return matchers;
    }
    const auto names = [&](const Module& module) { return ends_with_part(module.path, text); };
    ModulePattern pattern(text, keys.path("target_modules"));
    const auto selects = [&](const Module& module) { return pattern.matches_whole(module.path); };
    if (std::none_of(modules.begin(), modules.end(), selects) &&
        std::any_of(modules.begin(), modules.end(), names)) {
      *written = Json::array({text});
      matchers.push_back({std::move(text), std::nullopt});
    } else {
      *written = text;
      matchers.push_back({std::move(text), std::move(pattern)});
    }
    return matchers;
  }
  *written = *value;
  return read_matchers(keys, "target_modules");
}

// Every entry must select something: else it is a slip.
void check_entries(const Keys& keys, std::string_view key, const std::vector<Matcher>& matchers,
                   const std::vector<Module>& modules, const std::set<std::string>& others, bool embedding) {
  for (const Matcher& matcher : matchers) {
    const auto hits = [&](const Module& module) { return matcher.matches(module.path); };
    const auto hits_other = [&](const std::string& path) { return matcher.matches(path); };
    if (std::any_of(modules.begin(), modules.end(), hits) ||
        std::any_of(others.begin(), others.end(), hits_other)) {
      continue;
    }
    const auto names = module_names(modules, embedding);
    const std::string near = nearest(matcher.text, names);
    throw invalid("{} names {}, which is no module of this backbone{}; accepted: {}", keys.path(key),
                  shown(std::string_view(matcher.text)), near.empty() ? "" : " (did you mean " + near + "?)",
                  fmt::join(names, ", "));
  }
}

}  // namespace

void read_common_keys(Keys& keys) {
  keys.informative("peft_type");
  keys.neutral("task_type", "CAUSAL_LM");
  for (const char* key :
       {"auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}) {
    keys.informative(key);
  }
}

Json common_config(std::string_view peft_type) {
  return {{"peft_type", peft_type},  {"task_type", "CAUSAL_LM"},
          {"auto_mapping", nullptr}, {"base_model_name_or_path", nullptr},
          {"revision", nullptr},     {"inference_mode", true}};
}

void read_neutral_module_keys(Keys& keys) {
  keys.neutral("modules_to_save", Json::array());
  keys.neutral("fan_in_fan_out", false);
}

Targets read_targets(Keys& keys, const BackboneConfig& backbone, const TargetOptions& options) {
  const std::vector<Module> modules = backbone_modules(backbone);
  const std::set<std::string> others = other_modules(backbone, modules);
  Targets targets;
  const bool list = keys.has("target_modules") ? !keys.value("target_modules")->is_string() : true;
  const auto wanted = read_target_matchers(keys, modules, options, &targets.target_modules);
  const auto excluded = read_matchers(keys, "exclude_modules");
  check_entries(keys, "target_modules", wanted, modules, others, options.embedding);
  check_entries(keys, "exclude_modules", excluded, modules, others, true);
  std::optional<LayerFilter> filter;
  if (options.layers) filter.emplace(keys, backbone.layers, list);

  const auto selected = [&](const std::string& path) {
    return !any_matches(excluded, path) && any_matches(wanted, path) && (!filter || filter->passes(path));
  };
  for (const std::string& path : others) {
    if (selected(path)) {
      throw unsupported("{} selects {}, which is no projection; accepted: {}", keys.path("target_modules"),
                        path, fmt::join(module_names(modules, options.embedding), ", "));
    }
  }
  for (const Module& module : modules) {
    if (!selected(module.path)) continue;
    if (module.slot == Slot::kEmbedding && !options.embedding) {
      throw unsupported("{} selects {}, which this method cannot change; accepted: {}",
                        keys.path("target_modules"), module.path,
                        fmt::join(module_names(modules, false), ", "));
    }
    targets.modules.push_back(module);
  }
  if (targets.modules.empty()) {
    throw invalid(
        "{} is {}: nothing is left after exclude_modules and layers_to_transform; at least one module is "
        "needed",
        keys.path("target_modules"), shown(targets.target_modules));
  }
  return targets;
}

void write_target_keys(const Keys& keys, Json& config) {
  Keys reader = keys;
  for (const char* key : {"exclude_modules", "layers_to_transform", "layers_pattern"}) {
    const Json* value = reader.value(key);
    config[key] = value ? *value : Json(nullptr);
  }
}

PatternValues::PatternValues(Keys& keys, std::string_view key, const std::vector<Module>& modules,
                             Range range, bool whole) {
  const Json* value = keys.value(key);
  if (!value) return;
  Keys entries(*value, keys.path(key));
  std::vector<bool> taken(modules.size());
  for (const auto& [text, entry] : value->items()) {
    const double number = whole ? double(entries.integer(text, 0, range)) : entries.number(text, 0, range);
    if (entry.is_null()) {
      throw invalid("{} is null; a number is accepted", entries.path(text));
    }
    const ModulePattern pattern("(.*\\.)?(" + text + ")$", entries.path(text));
    bool found = false;
    for (size_t m = 0; m < modules.size(); ++m) {
      if (!pattern.matches_whole(modules[m].path)) continue;
      found = true;
      if (taken[m]) continue;
      taken[m] = true;
      values_.emplace_back(modules[m].path, number);
    }
    if (!found) throw invalid("{} matches none of the target modules", entries.path(text));
  }
}

double PatternValues::at(const Module& module, double fallback) const {
  for (const auto& [path, value] : values_) {
    if (path == module.path) return value;
  }
  return fallback;
}

std::optional<std::vector<int64_t>> read_layers(Keys& keys, std::string_view key, int64_t layers) {
  if (!keys.has(key)) {
    keys.value(key);
    return std::nullopt;
  }
  std::vector<int64_t> numbers = keys.integers(key);
  for (const int64_t number : numbers) {
    if (number < 0 || number >= layers) {
      throw invalid("{} names layer {}; the backbone has layers 0 to {}", keys.path(key), number, layers - 1);
    }
  }
  return numbers;
}

std::vector<std::string> copies_beside(const std::vector<Module>& modules) {
  std::vector<std::string> names;
  for (const Module& module : modules) {
    if (module.slot == Slot::kEmbedding || module.slot == Slot::kHead) {
      names.push_back(hf_tensor_name(module.path, "base_layer.weight"));
    }
  }
  return names;
}

std::string hf_tensor_name(const std::string& path, std::string_view tensor) {
  return "base_model.model." + path + "." + std::string(tensor);
}

TargetIndex::TargetIndex(const std::vector<Module>& modules, int64_t layers)
    : index_(size_t((layers + 2) * kSlots), -1) {
  for (size_t m = 0; m < modules.size(); ++m) {
    index_[size_t((modules[m].layer + 1) * kSlots + int64_t(modules[m].slot))] = int64_t(m);
  }
}

int64_t TargetIndex::find(const Module& module) const {
  const size_t place = size_t((module.layer + 1) * kSlots + int64_t(module.slot));
  return place < index_.size() ? index_[place] : -1;
}

}  // namespace coppice
