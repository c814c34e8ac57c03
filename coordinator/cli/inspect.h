#pragma once
// `coppice inspect PATH`: what a folder holds, a backbone or an adapter: family or kind, shapes, parameters,
// sizes. Reads all of a backbone once, for its fingerprint. Thread: main. Errors: kNotFound, kInvalid,
// kUnsupported naming file and field.

#include <string>

namespace coppice {

int run_inspect(const std::string& path);

}  // namespace coppice
