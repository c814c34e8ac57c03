#include "coordinator/prepare.h"

#include <algorithm>
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

namespace {

// Whether the adapter is the same with these keys in place of its own: "all-linear" for the list of modules.
bool same_method(Json config, const Json& given, const MethodConfig& adapter,
                 const BackboneConfig& backbone) {
  config.update(given);
  try {
    return configure_method(config, backbone, "method")->hf_config() == adapter.hf_config();
  } catch (const Error&) {
    return false;
  }
}

void check_beside(const JobSpec& spec, const MethodConfig& adapter, const BackboneConfig& backbone) {
  const Json config = read_adapter_config(*spec.init_adapter);
  try {
    check_agrees(spec.method, config, "method");
  } catch (const Error&) {
    if (!same_method(config, spec.method, adapter, backbone)) throw;
  }
}

}  // namespace

std::unique_ptr<PreparedJob> prepare_job(const JobSpec& spec, const Backbone& backbone) {
  auto job = std::make_unique<PreparedJob>();
  job->spec = spec;
  try {
    if (spec.init_adapter) {
      ImportedAdapter adapter = import_adapter(*spec.init_adapter, backbone.config);
      if (spec.method.is_object()) check_beside(spec, *adapter.config, backbone.config);
      job->method = adapter.config;
      job->initial = std::move(adapter.tensors);
    } else {
      job->method = configure_method(spec.method, backbone.config, "method");
    }
    const int64_t learned = job->method->virtual_rows() + job->method->prefix_rows();
    const int64_t positions = backbone.config.max_positions - learned;
    DataArguments& data = job->spec.data;
    if (data.max_length > positions) {
      throw invalid(
          "data.max_length is {}; the backbone has {} positions (max_position_embeddings), of which the "
          "method takes {}",
          data.max_length, backbone.config.max_positions, learned);
    }
    if (positions < 2)
      throw invalid("method: its {} virtual tokens leave no room in {} positions", learned,
                    backbone.config.max_positions);
    data.max_length = std::min(data.length_limit(), positions);
    const Tokenizer* tokenizer = backbone.tokenizer ? &*backbone.tokenizer : nullptr;
    job->data =
        read_job_data(job->spec, tokenizer, backbone.config.vocabulary, job->method->virtual_rows() > 0);
    job->batching = std::make_unique<Batching>(job->data, job->spec, job->method->virtual_rows());
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("job {}: {}", spec.name, error.what()));
  }
  return job;
}

JobMemory memory_of(const PreparedJob& job) {
  const Batching& batching = *job.batching;
  return {job.method.get(),         data_bytes(job.data),       batching.max_micro_batch_rows(),
          batching.max_step_rows(), batching.evaluation_rows(), job.spec.train.gradient_checkpointing};
}

}  // namespace coppice
