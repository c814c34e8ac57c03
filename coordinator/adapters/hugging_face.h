#pragma once
// Adapters as Hugging Face peft folders, both ways: adapter_config.json and adapter_model.safetensors. What a
// method's tensors are called there and how they are laid out the method says itself (MethodConfig); this
// file knows folders, keys and completeness. Thread: any. Errors: kNotFound (a file), kInvalid (missing,
// extra or misshapen tensors, by name), kUnsupported.

#include <memory>
#include <string>
#include <vector>

#include "worker/peft/method.h"

namespace coppice {

struct ImportedAdapter {
  std::shared_ptr<const MethodConfig> config;
  std::vector<Tensor> tensors;  // by number in the manifest
};

ImportedAdapter import_adapter(const std::string& folder, const BackboneConfig& backbone);
// The method block of the folder, for keys given beside init_adapter that must agree: throws kInvalid naming
// the first that does not.
Json read_adapter_config(const std::string& folder);
void check_agrees(const Json& given, const Json& adapter_config, const std::string& where);

// Whole or not at all. An older export in folder is replaced; a folder that holds anything else is refused
// (kInvalid). backbone_path: written as base_model_name_or_path.
void export_adapter(const std::string& folder, const MethodConfig& config, const std::vector<Tensor>& tensors,
                    const std::string& backbone_path);

}  // namespace coppice
