#include "coordinator/cli/inspect.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string_view>
#include <vector>

#include <fmt/ranges.h>

#include "common/base/error.h"
#include "common/io/safetensors.h"
#include "common/text/tokenizer.h"
#include "coordinator/adapters/hugging_face.h"
#include "coordinator/cli/inference.h"
#include "worker/backbone/weights.h"

namespace coppice {
namespace {

namespace fs = std::filesystem;

std::string field(std::string_view name, const std::string& value) {
  return fmt::format("{:<14}{}\n", name, value);
}

std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (int64_t at = int64_t(digits.size()) - 3; at > 0; at -= 3) digits.insert(size_t(at), 1, ' ');
  return digits;
}

std::string size_text(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double size = double(bytes);
  size_t unit = 0;
  for (; size >= 1024 && unit < 4; ++unit) size /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes)
                   : fmt::format("{:.1f} {} ({} bytes)", size, kUnits[unit], grouped(bytes));
}

std::string rope_text(const Rope& rope) {
  const std::string theta = fmt::format("theta {}", rope.theta);
  switch (rope.type) {
    case Rope::Type::kDefault:
      return "default, " + theta;
    case Rope::Type::kLinear:
      return fmt::format("linear, {}, factor {}", theta, rope.factor);
    case Rope::Type::kDynamic:
      return fmt::format("dynamic, {}, factor {}", theta, rope.factor);
    case Rope::Type::kLlama3:
      return fmt::format("llama3, {}, factor {} over {} positions", theta, rope.factor,
                         rope.original_max_positions);
    case Rope::Type::kYarn:
      return fmt::format("yarn, {}, factor {} over {} positions", theta, rope.factor,
                         rope.original_max_positions);
  }
  return {};
}

std::string window_text(const std::vector<int64_t>& window) {
  const auto with = std::count_if(window.begin(), window.end(), [](int64_t w) { return w > 0; });
  if (with == 0) return "none";
  const int64_t size = *std::max_element(window.begin(), window.end());
  if (size_t(with) == window.size()) return fmt::format("{} positions in every layer", size);
  return fmt::format("{} positions in {} of {} layers", size, with, window.size());
}

std::string_view activation_name(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGelu:
      return "gelu";
    case Activation::kGeluTanh:
      return "gelu_pytorch_tanh";
    case Activation::kRelu:
      return "relu";
  }
  return {};
}

// The projections of block 0 and the two ends, with their shapes; all blocks are alike.
std::string module_lines(const BackboneConfig& config) {
  std::string lines;
  for (const Module& module : backbone_modules(config)) {
    if (module.layer > 0 && module.slot != Slot::kHead) continue;
    const std::string times = module.layer == 0 ? fmt::format(" in each of {} layers", config.layers) : "";
    const std::string tied =
        module.slot == Slot::kHead && config.tied_embeddings ? " (tied to embed_tokens)" : "";
    lines += fmt::format("  {:<22}{}{}{}{}\n", module_name(module.slot),
                         shape_string({module.out, module.in}), module.bias ? " with bias" : "", times, tied);
  }
  return lines;
}

std::string inspect_backbone(const std::string& path) {
  const BackboneConfig config = read_backbone_config(path);
  const BackboneWeights weights(path, config);
  const SafetensorsFolder folder = SafetensorsFolder::open(path);
  std::set<std::string_view> dtypes;
  for (const std::string& name : folder.names()) dtypes.insert(dtype_name(folder.tensor(name).dtype));

  std::string text = field("backbone", config.family);
  text += field("layers", std::to_string(config.layers));
  text += field("hidden", std::to_string(config.hidden));
  text +=
      field("intermediate", fmt::format("{} ({})", config.intermediate, activation_name(config.activation)));
  text += field("heads", fmt::format("{} of {}, {} for keys and values{}", config.heads, config.head_dim,
                                     config.kv_heads, config.qk_norm ? ", q and k normed" : ""));
  text += field("vocabulary",
                fmt::format("{}{}", config.vocabulary, config.tied_embeddings ? ", embeddings tied" : ""));
  text += field("positions", std::to_string(config.max_positions));
  text += field("rope", rope_text(config.rope));
  text += field("window", window_text(config.window));
  text += field("parameters", grouped(weights.parameters()));
  text += field("weights", fmt::format("{}, {}", fmt::join(dtypes, " and "), size_text(folder.bytes())));
  text += field("fingerprint", fmt::format("{:016x}", weights.fingerprint()));
  if (fs::exists(path + "/tokenizer.json")) {
    text += field("tokenizer", fmt::format("{} tokens", Tokenizer::load(path).vocabulary_size()));
  } else {
    text += field("tokenizer", "none");
  }
  return text + "modules\n" + module_lines(config);
}

// Keys of a config in the order of the file; what is null, empty or off says nothing.
std::string key_lines(const Json& config) {
  std::string lines;
  for (const auto& item : config.items()) {
    const Json& value = item.value();
    const bool nothing = value.is_null() || value == false || (value.is_structured() && value.empty());
    if (!nothing && item.key() != "peft_type") lines += fmt::format("  {:<28}{}\n", item.key(), shown(value));
  }
  return lines;
}

std::string inspect_adapter(const std::string& path) {
  const Json config = read_adapter_config(path);
  if (!config.is_object() || !config.contains("peft_type") || !config["peft_type"].is_string()) {
    throw invalid("{}/adapter_config.json: peft_type is missing; an adapter's config names its kind", path);
  }
  const SafetensorsFile file = SafetensorsFile::open(path + "/adapter_model.safetensors");
  int64_t parameters = 0, bytes = 0;
  std::map<std::string, int64_t> shapes;  // how many tensors have a shape and dtype
  for (const std::string& name : file.names()) {
    const TensorView& tensor = file.tensor(name);
    parameters += element_count(tensor.shape);
    bytes += int64_t(tensor.bytes.size());
    ++shapes[fmt::format("{} {}", shape_string(tensor.shape), dtype_name(tensor.dtype))];
  }
  std::string text = field("adapter", config["peft_type"].get<std::string>());
  text += field("parameters", grouped(parameters));
  text += field("size", size_text(bytes));
  text += field("tensors", std::to_string(file.names().size()));
  for (const auto& [shape, count] : shapes) text += fmt::format("  {:<22}{} times\n", shape, count);
  return text + "config\n" + key_lines(config);
}

}  // namespace

int run_inspect(const std::string& path) {
  const bool adapter = fs::exists(path + "/adapter_config.json"),
             backbone = fs::exists(path + "/config.json");
  if (!adapter && !backbone) {
    throw not_found("{}: {}", path,
                    fs::exists(path)
                        ? "neither config.json (a backbone) nor adapter_config.json (an adapter) is there"
                        : "no such folder");
  }
  print(adapter ? inspect_adapter(path) : inspect_backbone(path));
  return 0;
}

}  // namespace coppice
