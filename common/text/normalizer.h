#pragma once
// Changes text before it is cut: Unicode normalisation forms, Prepend, Replace, Strip, and sequences of them.
// Thread: const methods from any thread. Errors: kInvalid, kUnsupported, naming where and key.

#include <cstddef>
#include <memory>
#include <string>

#include "common/io/json.h"

namespace coppice {

class Normalizer {
 public:
  // Null for JSON null.
  static std::unique_ptr<Normalizer> from_json(const Json& json, const std::string& where);
  virtual ~Normalizer() = default;

  // text is valid UTF-8 and stays so. first: how many of its leading bytes stem from the first character of
  // the whole input (Metaspace's prepend scheme "first" asks); kept up to date.
  virtual void apply(std::string& text, size_t& first) const = 0;
};

}  // namespace coppice
