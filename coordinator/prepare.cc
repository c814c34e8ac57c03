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
  const BackboneWeights weights(path, backbone.config);
  backbone.fingerprint = weights.fingerprint();
  backbone.table = weights.embedding().dtype;
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

void PreparedJob::unload() {
  batching.reset();
  for (auto* set : {&data.train, &data.eval}) *set = std::make_shared<Dataset>((*set)->without_examples());
  std::vector<Tensor>().swap(initial);
}

Preparation::Preparation(const Backbone& backbone, int64_t most_bytes)
    : backbone_(backbone), most_bytes_(std::max(most_bytes, int64_t(64) << 20)) {}

std::unique_ptr<PreparedJob> Preparation::prepare(const JobSpec& spec) {
  auto job = prepare_job(spec, backbone_, most_bytes_ - held_bytes_);
  int64_t bytes = 0;
  for (const DataPart& part : job->memory.data) bytes += held_.contains(part.dataset) ? 0 : part.bytes;
  for (const Tensor& tensor : job->initial) bytes += int64_t(tensor.values.size() * sizeof(float));
  if (held_bytes_ + bytes > most_bytes_ / 2) {
    job->unload();
  } else {
    held_bytes_ += bytes;
    for (const DataPart& part : job->memory.data)
      if (part.dataset != 0) held_.insert(part.dataset);
  }
  return job;
}

std::unique_ptr<PreparedJob> prepare_job(const JobSpec& spec, const Backbone& backbone,
                                         int64_t most_data_bytes) {
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
    job->data = read_job_data(job->spec, *backbone.datasets, tokenizer, backbone.config.vocabulary,
                              job->method->virtual_rows() > 0, most_data_bytes);
    job->batching = std::make_unique<Batching>(job->data, job->spec, job->method->virtual_rows());
    job->total_steps = job->batching->total_steps();
    const Batching& batching = *job->batching;
    job->memory = {job->method.get(),        parts_of(job->data),        batching.max_micro_batch_rows(),
                   batching.max_step_rows(), batching.evaluation_rows(), spec.train.gradient_checkpointing};
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("job {}: {}", spec.name, error.what()));
  }
  return job;
}

}  // namespace coppice
