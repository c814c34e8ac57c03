#pragma once
// YAML as configuration: read into Json, so that job files in YAML and requests in JSON meet the same checks.
// Owner of yaml-cpp. Plain scalars follow the YAML 1.2 core schema (true/false, null, integers, floats with
// or without a dot: 2e-4 is a number); quoted scalars are strings. Duplicate keys, anchors that make it grow
// beyond 64 MiB and several documents are errors. Errors: kNotFound, kInvalid with file, line and column.

#include <string>
#include <string_view>

#include "common/io/json.h"

namespace coppice {

Json parse_yaml(const std::string& text, const std::string& what);
Json read_yaml_file(const std::string& path);

}  // namespace coppice
