// Adapter folders for the tests that compare with HF peft (test_adapter_folders.py):
//   adapter_tool copy BACKBONE IN OUT             imports the adapter IN and exports it again
//   adapter_tool new BACKBONE KEYS.json SEED OUT  exports an adapter with these method keys, all of its
//   values normal
// An error is one line on standard error and status 2.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/base/error.h"
#include "common/base/random.h"
#include "common/io/json.h"
#include "coordinator/adapters/hugging_face.h"
#include "worker/backbone/config.h"

namespace coppice {
namespace {

std::vector<Tensor> random_tensors(const MethodConfig& config, uint64_t seed) {
  std::vector<Tensor> tensors;
  for (const TensorSpec& spec : config.tensors()) {
    Random random(stream_key(seed, Purpose::kInitialValue, {name_hash(spec.name)}));
    Tensor& tensor = tensors.emplace_back(spec.shape);
    for (float& value : tensor.values) value = float(0.3 * random.normal());
  }
  return tensors;
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4)
    throw invalid("usage: adapter_tool copy BACKBONE IN OUT | new BACKBONE KEYS.json SEED OUT");
  const BackboneConfig backbone = read_backbone_config(arguments[1]);
  if (arguments[0] == "copy" && arguments.size() == 4) {
    const ImportedAdapter adapter = import_adapter(arguments[2], backbone);
    export_adapter(arguments[3], *adapter.config, adapter.tensors, arguments[1]);
  } else if (arguments[0] == "new" && arguments.size() == 5) {
    const auto config = configure_method(read_json_file(arguments[2]), backbone, "keys");
    const uint64_t seed = std::strtoull(arguments[3].c_str(), nullptr, 10);
    export_adapter(arguments[4], *config, random_tensors(*config, seed), arguments[1]);
  } else {
    throw invalid("{} with {} arguments; copy or new is accepted", arguments[0], arguments.size() - 1);
  }
}

}  // namespace
}  // namespace coppice

int main(int count, char** values) {
  try {
    coppice::run({values + 1, values + count});
  } catch (const coppice::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  return 0;
}
