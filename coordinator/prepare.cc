#include "coordinator/prepare.h"

#include <filesystem>

#include "common/base/error.h"
#include "coordinator/adapters/hugging_face.h"
#include "worker/backbone/weights.h"

namespace coppice {

Backbone read_backbone(const std::string& path) {
  Backbone backbone;
  backbone.path = path;
  backbone.config = read_backbone_config(path);
  backbone.fingerprint = BackboneWeights(path, backbone.config).fingerprint();
  if (std::filesystem::exists(path + "/tokenizer.json")) backbone.tokenizer = Tokenizer::load(path);
  return backbone;
}

std::unique_ptr<PreparedJob> prepare_job(const JobSpec& spec, const Backbone& backbone) {
  auto job = std::make_unique<PreparedJob>();
  job->spec = spec;
  try {
    if (spec.init_adapter) {
      if (spec.method.is_object())
        check_agrees(spec.method, read_adapter_config(*spec.init_adapter), "method");
      ImportedAdapter adapter = import_adapter(*spec.init_adapter, backbone.config);
      job->method = adapter.config;
      job->initial = std::move(adapter.tensors);
    } else {
      job->method = configure_method(spec.method, backbone.config, "method");
    }
    const int64_t learned = job->method->virtual_rows() + job->method->prefix_rows();
    if (spec.data.max_length + learned > backbone.config.max_positions) {
      throw invalid(
          "data.max_length is {} and the method adds {} positions; the backbone has {} "
          "(max_position_embeddings)",
          spec.data.max_length, learned, backbone.config.max_positions);
    }
    const Tokenizer* tokenizer = backbone.tokenizer ? &*backbone.tokenizer : nullptr;
    job->data = read_job_data(spec, tokenizer, backbone.config.vocabulary, job->method->virtual_rows() > 0);
    job->batching = std::make_unique<Batching>(job->data, spec, job->method->virtual_rows());
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("job {}: {}", spec.name, error.what()));
  }
  return job;
}

}  // namespace coppice
