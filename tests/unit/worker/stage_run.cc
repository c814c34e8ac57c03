#include "tests/unit/worker/stage_run.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "common/base/random.h"

namespace coppice {
namespace {

constexpr uint64_t kSeed = 7;

bool equal_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

int64_t TestJob::lowest() const {
  if (!training) return kNoBackward;
  return lowest_layer == -2 ? method->lowest_layer() : lowest_layer;
}

TestJob make_job(const std::string& name, std::shared_ptr<const MethodConfig> method) {
  TestJob job;
  job.name = name;
  job.method = std::move(method);
  for (const TensorSpec& spec : job.method->tensors()) {
    Tensor& tensor = job.tensors[spec.name] = Tensor(spec.shape);
    const bool around_one = spec.initial.kind == Initial::Kind::kOnes;
    Random random(name_hash(name + spec.name));
    for (float& value : tensor.values) value = float((around_one ? 1 : 0) + 0.2 * random.normal());
  }
  return job;
}

TestJob make_job(const std::string& name, const std::string& method_keys, const BackboneConfig& config) {
  return make_job(name, configure_method(parse_json(method_keys, "method"), config, "method"));
}

BuiltPack build_pack(const std::vector<MicroBatch>& micro_batches, const BackboneConfig& config,
                     bool checkpointing, uint64_t id) {
  std::vector<MicroBatch> sorted = micro_batches;
  std::stable_sort(sorted.begin(), sorted.end(), [](const MicroBatch& a, const MicroBatch& b) {
    return a.job->lowest() < b.job->lowest();
  });
  BuiltPack built;
  built.pack.id = id;
  built.pack.checkpointing = checkpointing;
  for (const MicroBatch& micro_batch : sorted) {
    const TestJob& job = *micro_batch.job;
    Segment segment;
    segment.job = job.name;
    segment.micro_batch = micro_batch.number;
    segment.training = job.training;
    segment.lowest_layer = job.lowest();
    segment.row = built.pack.rows;
    for (size_t s = 0; s < job.lengths.size(); ++s) {
      PackSequence sequence;
      sequence.row = built.pack.rows;
      sequence.virtual_rows = job.method ? job.method->virtual_rows() : 0;
      sequence.first_position = job.method ? job.method->prefix_rows() : 0;
      sequence.tokens = job.lengths[s];
      sequence.in_step = micro_batch.number * int64_t(job.lengths.size()) + int64_t(s);
      Random random(stream_key(kSeed, Purpose::kShuffle, {name_hash(job.name), uint64_t(sequence.in_step)}));
      built.tokens.insert(built.tokens.end(), size_t(sequence.virtual_rows), 0);
      for (int64_t t = 0; t < sequence.tokens; ++t) {
        built.tokens.push_back(int32_t(random.below(uint64_t(config.vocabulary))));
        if (t % 2 == 1 && t + 1 != sequence.tokens) continue;
        built.targets.rows.push_back(int32_t(built.tokens.size() - 1));
        built.targets.targets.push_back(int32_t(random.below(uint64_t(config.vocabulary))));
        built.targets.weights.push_back(0.125f);
      }
      built.pack.rows += sequence.rows();
      segment.sequences.push_back(sequence);
    }
    segment.rows = built.pack.rows - segment.row;
    built.pack.segments.push_back(segment);
  }
  return built;
}

Backend& test_backend(const std::string& name, int threads) {
  struct Made {
    std::unique_ptr<ThreadPool> pool;
    std::unique_ptr<Backend> backend;
  };
  static std::map<std::pair<std::string, int>, Made> all;
  Made& made = all[{name, threads}];
  if (!made.backend) {
    made.pool = std::make_unique<ThreadPool>(threads);
    made.backend = make_backend(name, *made.pool);
  }
  return *made.backend;
}

TestPipeline::TestPipeline(const TinyBackbone& backbone, const RunOptions& options)
    : backend_(options.device != nullptr ? *options.device : test_backend(options.backend, options.threads)) {
  const int64_t layers = backbone.config().layers;
  for (int64_t s = 0; s < options.stages; ++s) {
    const StageOptions part{s * layers / options.stages, (s + 1) * layers / options.stages, options.compute};
    stages_.push_back(std::make_unique<Stage>(backend_, backbone.config(), backbone.folder(), part));
  }
}

void TestPipeline::set_adapter(const TestJob& job) {
  if (!job.method) return;
  for (auto& stage : stages_) {
    std::vector<NumberedTensor> tensors;
    for (size_t i = 0; i < job.method->tensors().size(); ++i) {
      const TensorSpec& spec = job.method->tensors()[i];
      if (stage->lives_here(spec)) tensors.push_back({int64_t(i), job.tensors.at(spec.name)});
    }
    stage->set_adapter(job.name, job.method, kSeed, 0, views_of(tensors), job.training);
  }
}

void TestPipeline::run(const BuiltPack& built, Results& results) {
  const Pack& pack = built.pack;
  Rows rows = stages_[0]->forward(pack, built.tokens);
  for (size_t s = 1; s < stages_.size(); ++s) rows = stages_[s]->forward(pack, std::move(rows));
  Rows drows;
  const auto losses = stages_.back()->loss(pack, built.targets, rows, true, &drows);
  rows = {};
  for (size_t s = stages_.size(); s-- > 0;) {
    if (drows.matrix.empty()) break;
    drows = stages_[s]->backward(pack, std::move(drows));
  }
  for (auto& stage : stages_) stage->finish(pack);
  for (size_t i = 0; i < losses.size(); ++i) {
    JobResult& result = results[pack.segments[i].job];
    result.losses.push_back(losses[i].weighted_loss);
    result.log_probabilities.push_back(losses[i].log_probability);
  }
}

void TestPipeline::take_gradients(const TestJob& job, Results& results) {
  if (!job.training) return;
  for (auto& stage : stages_)
    for (NumberedTensor& gradient : stage->take_gradients(job.name))
      results[job.name].gradients[job.method->tensors()[size_t(gradient.number)].name] =
          std::move(gradient.tensor.values);
}

Results run_packs(const TinyBackbone& backbone, const RunOptions& options,
                  const std::vector<std::vector<MicroBatch>>& packs) {
  TestPipeline pipeline(backbone, options);
  std::set<const TestJob*> jobs;
  for (const auto& pack : packs)
    for (const MicroBatch& micro_batch : pack)
      if (jobs.insert(micro_batch.job).second) pipeline.set_adapter(*micro_batch.job);
  Results results;
  uint64_t id = 0;
  for (const auto& pack : packs)
    pipeline.run(build_pack(pack, backbone.config(), options.checkpointing, ++id), results);
  for (const TestJob* job : jobs) pipeline.take_gradients(*job, results);
  return results;
}

testing::AssertionResult same_bits(const JobResult& a, const JobResult& b) {
  if (a.losses.size() != b.losses.size() || a.gradients.size() != b.gradients.size())
    return testing::AssertionFailure() << a.losses.size() << " losses and " << a.gradients.size()
                                       << " gradients, " << b.losses.size() << " and " << b.gradients.size();
  if (std::memcmp(a.losses.data(), b.losses.data(), a.losses.size() * sizeof(double)) != 0)
    return testing::AssertionFailure() << "losses differ: " << a.losses[0] << " and " << b.losses[0];
  for (size_t i = 0; i < a.log_probabilities.size(); ++i)
    if (!equal_bits(a.log_probabilities[i], b.log_probabilities[i]))
      return testing::AssertionFailure() << "log-probabilities of micro-batch " << i << " differ";
  for (const auto& [name, gradient] : a.gradients) {
    const auto other = b.gradients.find(name);
    if (other == b.gradients.end()) return testing::AssertionFailure() << name << " is missing";
    if (!equal_bits(gradient, other->second))
      return testing::AssertionFailure() << "gradient of " << name << " differs";
  }
  return testing::AssertionSuccess();
}

}  // namespace coppice
