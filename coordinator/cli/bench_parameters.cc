// The parameter server alone: a step of a LoRA adapter of ten million parameters, as a shard does it in one
// process, from the gradients that arrive to the new version that leaves, against what memory gives. Counted
// are the bytes that no implementation can spare: the gradient read, parameter and both moments read and
// written, the published values written. Best of several, as bench_kernels.cc.

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "common/base/error.h"
#include "coordinator/cli/bench.h"
#include "coordinator/jobs/train_arguments.h"
#include "coordinator/params/shard_worker.h"
#include "worker/messages.h"

namespace coppice {
namespace {

constexpr int kCoordinator = 0, kShard = 1, kStage = 2, kRanks = 3;
constexpr const char* kJob = "bench";
constexpr int kRank = 57;  // on all linear layers of the 110 M shape: 9.98 million parameters
constexpr double kBytesOfAParameter = (1 + 2 * 3 + 1) * sizeof(float);
constexpr int kSteps = 40;

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

BackboneConfig config_110m() {
  BackboneConfig config;
  config.hidden = 768;
  config.intermediate = 2048;
  config.layers = 12;
  config.heads = config.kv_heads = 12;
  config.head_dim = 64;
  config.vocabulary = 32000;
  return config;
}

// a = b + s c, as STREAM has it.
class Triad {
 public:
  explicit Triad(ThreadPool& pool) : pool_(pool) {}

  static constexpr double bytes() { return 3.0 * double(kSize) * sizeof(float); }
  double seconds() {
    const double began = now_seconds();
    pool_.parallel_for(kSize / kBlock, [&](int64_t block, int) {
      float* const to = &a_[size_t(block * kBlock)];
      const float *const from = &b_[size_t(block * kBlock)], *const scaled = &c_[size_t(block * kBlock)];
      for (int64_t i = 0; i < kBlock; ++i) to[i] = from[i] + 3 * scaled[i];
    });
    return now_seconds() - began;
  }

 private:
  static constexpr int64_t kSize = 16 << 20, kBlock = 1 << 18;
  ThreadPool& pool_;
  std::vector<float> a_ = std::vector<float>(kSize, 1), b_ = std::vector<float>(kSize, 2),
                     c_ = std::vector<float>(kSize, 3);
};

// The coordinator and a stage, as far as the shard sees them.
class ParameterBench {
 public:
  explicit ParameterBench(Backend& backend)
      : worker_(*ends_[kShard], backend, kCoordinator),
        method_(configure_method(
            Json{{"peft_type", "LORA"}, {"r", kRank}, {"lora_alpha", 16}, {"target_modules", "all-linear"}},
            config_110m(), "method")) {
    add();
    route();
  }
  double parameters() const { return double(method_->trainable_parameters()); }

  // Seconds from the gradients to the version that is published.
  double step(int64_t version) {
    send(kStage, gradients(version));
    proto::UpdateAdapter update;
    update.set_job(kJob);
    update.set_version(version);
    update.set_learning_rate(1e-4);
    update.set_gradient_factor(1);
    const double began = now_seconds();
    deliver();
    const auto norms = ends_[kCoordinator]->receive();
    send(kCoordinator, make_message(proto::UPDATE_ADAPTER, update));
    deliver();
    const double seconds = now_seconds() - began;
    const auto published = ends_[kStage]->receive();
    if (!norms || !published || published->kind != uint32_t(proto::PUBLISH))
      throw failed("the shard has not published version {}", version + 1);
    return seconds;
  }

 private:
  void send(int from, Message message) { ends_[size_t(from)]->send(kShard, std::move(message)); }
  void deliver() {
    while (const auto message = ends_[kShard]->receive()) worker_.take(*message);
  }

  void add() {
    proto::AddAdapter header;
    header.set_job(kJob);
    TrainArguments train;
    train.optim = Optimizer::kAdamW;
    header.set_train(train_keys(train).dump());
    header.set_method(method_->hf_config().dump());
    Message message;
    for (size_t i = 0; i < method_->tensors().size(); ++i) {
      const TensorSpec& spec = method_->tensors()[i];
      auto* tensor = header.add_tensors();
      tensor->set_number(int64_t(i));
      tensor->set_name(spec.name);
      tensor->mutable_shape()->Add(spec.shape.begin(), spec.shape.end());
      message.payload.push_back(std::make_unique<TensorPayload>(Tensor(spec.shape)));
    }
    message.kind = uint32_t(proto::ADD_ADAPTER);
    message.header = header.SerializeAsString();
    send(kCoordinator, std::move(message));
  }

  void route() {
    proto::RouteAdapter header;
    header.set_job(kJob);
    auto* stage = header.add_stages();
    stage->set_rank(kStage);
    for (size_t i = 0; i < method_->tensors().size(); ++i) stage->add_tensors(int64_t(i));
    send(kCoordinator, make_message(proto::ROUTE_ADAPTER, header));
    deliver();
    ends_[kStage]->receive();
  }

  Message gradients(int64_t version) const {
    std::vector<NumberedTensor> tensors;
    for (size_t i = 0; i < method_->tensors().size(); ++i) {
      tensors.push_back({int64_t(i), Tensor(method_->tensors()[i].shape)});
      std::fill(tensors.back().tensor.values.begin(), tensors.back().tensor.values.end(), 1e-3f);
    }
    proto::AdapterTensors header;
    header.set_job(kJob);
    header.set_version(version);
    Message message;
    put_tensors(std::move(tensors), header, message);
    message.kind = uint32_t(proto::GRADIENTS);
    message.header = header.SerializeAsString();
    return message;
  }

  std::vector<std::unique_ptr<Transport>> ends_ = make_loopback(kRanks);
  ShardWorker worker_;
  std::unique_ptr<MethodConfig> method_;
};

}  // namespace

void bench_parameters(const ComputeOptions& compute) {
  Device device(compute);
  Triad triad(device.pool);
  ParameterBench bench(*device.backend);
  double best = 1e9, memory = 1e9;
  for (int64_t version = 0; version < kSteps; ++version) {  // in turns: other work on the machine slows both
    best = std::min(best, bench.step(version));
    memory = std::min(memory, triad.seconds());
  }
  const double reached = bench.parameters() * kBytesOfAParameter / best, bandwidth = Triad::bytes() / memory;
  std::printf(
      "parameter server, %d threads: push, update and publish of %.2f M parameters: %.1f ms, %.1f GB/s; "
      "memory (triad): %.1f GB/s; share %.2f\n",
      device.pool.threads(), bench.parameters() * 1e-6, best * 1e3, reached * 1e-9, bandwidth * 1e-9,
      reached / bandwidth);
}

}  // namespace coppice
