#pragma once
// What the methods share in reading their keys: which modules a config selects, by the rules of HF peft
// (tuners_utils.py), and the keys that every adapter_config.json has. Unlike peft, which passes over what it
// does not find, a name or pattern that selects nothing is an error, and so is one that selects what is not a
// projection. Thread: any. Errors: kInvalid, kUnsupported naming the field.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/io/json.h"
#include "common/io/keys.h"
#include "worker/backbone/config.h"

namespace coppice {

// The keys of every peft config: peft_type, task_type (causal language models), where it came from.
void read_common_keys(Keys& keys);
// The same as an export writes them.
Json common_config(std::string_view peft_type);
// modules_to_save and fan_in_fan_out at their neutral values.
void read_neutral_module_keys(Keys& keys);

struct TargetOptions {
  std::vector<std::string> fallback = {};  // where target_modules is absent; empty: it is required
  bool layers = false;                     // reads layers_to_transform and layers_pattern
  bool embedding = false;                  // embed_tokens may be a target
};
struct Targets {
  std::vector<Module> modules;  // in canonical order, at least one
  Json target_modules;          // as an export writes them: a list, or a regular expression
};

// target_modules: a list (each matches a module's whole path or its ending after a dot), a regular expression
// for the whole path, or "all-linear" (every projection of the blocks); a string that is no such expression
// but the ending of some path counts as a list of one. exclude_modules: the same without "all-linear".
Targets read_targets(Keys& keys, const BackboneConfig& backbone, const TargetOptions& options);

// The keys of read_targets besides target_modules as an export writes them: as they were given.
void write_target_keys(const Keys& keys, Json& config);

// rank_pattern and alpha_pattern: an object of regular expressions, each for the ending of a path after a
// dot; the first that matches counts. Each must match one of the modules.
class PatternValues {
 public:
  PatternValues(Keys& keys, std::string_view key, const std::vector<Module>& modules, Range range,
                bool whole);
  double at(const Module& module, double fallback) const;

 private:
  std::vector<std::pair<std::string, double>> values_;  // by path
};

// A list of layers: layers_to_transform, leave_out. Each in [0, layers); absent: nothing.
std::optional<std::vector<int64_t>> read_layers(Keys& keys, std::string_view key, int64_t layers);

// What peft writes beside an adapter whose target_modules name embed_tokens or lm_head: those modules' frozen
// weights.
std::vector<std::string> copies_beside(const std::vector<Module>& modules);

// "base_model.model." + path + "." + tensor.
std::string hf_tensor_name(const std::string& path, std::string_view tensor);

// The place of a module among a config's targets: -1 where it is none.
class TargetIndex {
 public:
  TargetIndex() = default;
  TargetIndex(const std::vector<Module>& modules, int64_t layers);
  int64_t find(const Module& module) const;

 private:
  std::vector<int64_t> index_;  // by (layer + 1, slot)
};

}  // namespace coppice
