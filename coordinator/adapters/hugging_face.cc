#include "coordinator/adapters/hugging_face.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <string_view>
#include <utility>

#include "common/base/error.h"
#include "common/io/files.h"
#include "common/io/json.h"
#include "common/io/keys.h"
#include "common/io/safetensors.h"

namespace coppice {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfigFile = "adapter_config.json";
constexpr std::string_view kModelFile = "adapter_model.safetensors";
// What peft adds beside the two when it saves. The user may have written in it: it stays.
constexpr std::array<std::string_view, 1> kOtherFiles = {"README.md"};

// Keys that say where an adapter came from or who wrote it, not what it computes.
constexpr std::array<std::string_view, 6> kOrigin = {
    "base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping", "task_type"};

std::string file_in(const std::string& folder, std::string_view name) {
  return folder + "/" + std::string(name);
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// peft keeps lists of modules as sets and writes them in any order.
Json without_order(const Json& value) {
  if (!value.is_array()) return value;
  std::vector<std::string> elements;
  for (const Json& element : value)
    elements.push_back(element.dump(-1, ' ', false, Json::error_handler_t::replace));
  std::sort(elements.begin(), elements.end());
  return Json(elements);
}

// Absent, null, false and empty all mean that a feature is not used.
bool unused(const Json& value) {
  return value.is_null() || value == Json(false) || (value.is_structured() && value.empty());
}

void check_replaceable(const std::string& folder) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool ours = name == kConfigFile || name == kModelFile ||
                      std::find(kOtherFiles.begin(), kOtherFiles.end(), name) != kOtherFiles.end();
    if (!ours) {
      throw invalid("{}: holds {}; a new folder, an empty one or an adapter's is accepted", folder,
                    shown(std::string_view(name)));
    }
  }
}

// Every tensor of the file is one of the config's or a copy that it knows of; a name that nobody reads would
// be silently lost.
void check_nothing_left(const SafetensorsFile& file, const MethodConfig& config, std::set<std::string> read) {
  for (const std::string& name : config.hf_copies()) read.insert(name);
  for (const std::string& name : file.names()) {
    if (read.contains(name)) continue;
    const std::string near = nearest(name, {read.begin(), read.end()});
    throw invalid("{}: tensor {} is not one of this {} adapter{}", file.path(), shown(std::string_view(name)),
                  config.method().peft_type(), near.empty() ? "" : "; the nearest that is: " + near);
  }
}

}  // namespace

Json read_adapter_config(const std::string& folder) {
  const std::string path = file_in(folder, kConfigFile);
  if (!exists(path)) {
    throw not_found("{}: {}", folder, exists(folder) ? "holds no adapter_config.json" : "no such folder");
  }
  return read_json_file(path);
}

void check_agrees(const Json& given, const Json& adapter_config, const std::string& where) {
  // Through Keys, so that a key is named as everywhere else.
  const Keys keys(given, where);
  for (const auto& item : given.items()) {
    const std::string& key = item.key();
    if (std::find(kOrigin.begin(), kOrigin.end(), key) != kOrigin.end()) continue;
    const auto found = adapter_config.find(key);
    const Json value = found == adapter_config.end() ? Json() : *found;
    if (item.value().is_null()) continue;  // as if it were not given
    if (without_order(item.value()) == without_order(value) || (unused(item.value()) && unused(value)))
      continue;
    if (found == adapter_config.end()) {
      std::vector<std::string> known;
      for (const auto& other : adapter_config.items()) known.push_back(other.key());
      const std::string near = nearest(key, known);
      throw invalid("{} is {}, which the config of init_adapter does not have{}", keys.path(key),
                    shown(item.value()), near.empty() ? "" : "; did you mean " + near + "?");
    }
    throw invalid("{} is {}, but {} in init_adapter; the same or no value is accepted", keys.path(key),
                  shown(item.value()), shown(value));
  }
}

ImportedAdapter import_adapter(const std::string& folder, const BackboneConfig& backbone) {
  const Json keys = read_adapter_config(folder);
  std::shared_ptr<const MethodConfig> config =
      configure_method(keys, backbone, file_in(folder, kConfigFile) + ": ");

  const std::string path = file_in(folder, kModelFile);
  if (!exists(path)) {
    throw not_found("{}: holds no adapter_model.safetensors{}", folder,
                    exists(folder + "/adapter_model.bin")
                        ? "; adapter_model.bin is not read, save with safe_serialization"
                        : "");
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::set<std::string> read;
  const auto find = [&](const std::string& name) {
    if (!file.contains(name)) throw invalid("tensor {} is missing", shown(std::string_view(name)));
    read.insert(name);
    const TensorView& view = file.tensor(name);
    if (view.dtype != DType::kF32 && view.dtype != DType::kF16 && view.dtype != DType::kBF16) {
      throw invalid("tensor {} has dtype {}; F32, F16 and BF16 are accepted", shown(std::string_view(name)),
                    dtype_name(view.dtype));
    }
    return to_f32(view);
  };
  ImportedAdapter adapter{config, {}};
  try {
    adapter.tensors = config->from_hf(find);
  } catch (const Error& error) {
    if (std::string_view(error.what()).starts_with(path)) throw;
    throw Error(error.code(), path + ": " + error.what());
  }
  check_nothing_left(file, *config, std::move(read));
  return adapter;
}

void export_adapter(const std::string& folder, const MethodConfig& config, const std::vector<Tensor>& tensors,
                    const std::string& backbone_path) {
  check_replaceable(folder);
  Json keys = config.hf_config();
  keys["base_model_name_or_path"] = backbone_path;
  const nlohmann::json sorted = keys;  // by key, as peft writes them
  std::string text;
  try {
    text = sorted.dump(2) + "\n";
  } catch (const nlohmann::json::exception&) {
    throw invalid("{}: cannot be written, since {} is not UTF-8", file_in(folder, kConfigFile),
                  shown(std::string_view(backbone_path)));
  }

  const std::vector<std::pair<std::string, Tensor>> file = config.to_hf(tensors);
  std::vector<std::pair<std::string, TensorView>> views;
  for (const auto& [name, tensor] : file) views.emplace_back(name, tensor.view());
  write_folder_atomically(folder, [&](const std::string& temporary) {
    write_file_atomically(file_in(temporary, kConfigFile), text);
    write_safetensors(file_in(temporary, kModelFile), views);
    for (const std::string_view name : kOtherFiles) {
      const std::string there = file_in(folder, name);
      if (exists(there)) write_file_atomically(file_in(temporary, name), read_file(there));
    }
  });
}

}  // namespace coppice
