#include <fmt/ranges.h>

#include "common/base/error.h"
#include "common/io/keys.h"
#include "worker/peft/all_methods.h"
#include "worker/peft/method.h"

namespace coppice {
namespace {

std::vector<std::string> known_kinds() {
  std::vector<std::string> kinds;
  for (const Method* method : methods()) kinds.emplace_back(method->peft_type());
  return kinds;
}

const Method* lookup(std::string_view peft_type) {
  for (const Method* method : methods()) {
    if (method->peft_type() == peft_type) return method;
  }
  return nullptr;
}

}  // namespace

std::vector<const Method*> methods() {
  return {&lora_method(), &ia3_method(), &prefix_tuning_method(), &prompt_tuning_method(),
          &bottleneck_method()};
}

const Method& find_method(std::string_view peft_type) {
  if (const Method* method = lookup(peft_type)) return *method;
  throw unsupported("peft_type is {}; supported: {}", shown(peft_type), fmt::join(known_kinds(), ", "));
}

std::unique_ptr<MethodConfig> configure_method(const Json& keys, const BackboneConfig& backbone,
                                               const std::string& where) {
  Keys reader(keys, where);
  const auto peft_type = reader.optional_text("peft_type");
  const std::string path = reader.path("peft_type");
  if (!peft_type) throw invalid("{} is missing; supported: {}", path, fmt::join(known_kinds(), ", "));
  const Method* method = lookup(*peft_type);
  if (!method) {
    const std::string near = nearest(*peft_type, known_kinds());
    throw unsupported("{} is {}{}; supported: {}", path, shown(std::string_view(*peft_type)),
                      near.empty() ? "" : " (did you mean " + near + "?)", fmt::join(known_kinds(), ", "));
  }
  return method->configure(keys, backbone, where);
}

}  // namespace coppice
