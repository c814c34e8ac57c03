#pragma once
// A coordinator, a stage and shards over loopback, for tests that play the first two.

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <thread>

#include "common/base/thread_pool.h"
#include "coordinator/jobs/train_arguments.h"
#include "coordinator/params/shard_worker.h"
#include "kernels/ref/ref_backend.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/params/states.h"
#include "worker/messages.h"

namespace coppice {

inline const std::vector<Shape> kShapes = {{4, 3}, {7}, {2, 2}, {5, 2}};
constexpr int kCoordinator = 0, kStage = 1, kFirstShard = 2;

inline Tensor gradient_of(int64_t version, int64_t number) {
  Tensor made(kShapes[size_t(number)]);
  for (size_t i = 0; i < made.values.size(); ++i) {
    made.values[i] = 0.01f * float((int64_t(i) * 7 + number * 3 + version * 5) % 11) - 0.04f;
  }
  return made;
}

inline proto::AdapterVersion adapter_version(const std::string& job, int64_t version) {
  proto::AdapterVersion header;
  header.set_job(job);
  header.set_version(version);
  return header;
}

inline Message adapter_tensors(proto::MessageKind kind, const std::string& job, int64_t version,
                               const std::vector<NumberedTensor>& tensors) {
  proto::AdapterTensors header;
  header.set_job(job);
  header.set_version(version);
  Message message;
  put_tensors(tensors, header, message);
  message.kind = uint32_t(kind);
  message.header = header.SerializeAsString();
  return message;
}

class ShardWorkerRig : public ::testing::Test {
 protected:
  ShardWorkerRig() {
    train_.weight_decay = 0.1;
    train_.optim = Optimizer::kAdamW;
  }

  ShardWorker& worker(int shard = 0, KvStore* store = nullptr) {
    auto& worker = workers_[shard];
    if (!worker) {
      worker =
          std::make_unique<ShardWorker>(*ends_[size_t(kFirstShard + shard)], backend_, kCoordinator, store);
    }
    return *worker;
  }
  // What was sent to a shard, taken.
  void deliver(int shard = 0) {
    while (auto message = ends_[size_t(kFirstShard + shard)]->receive()) worker(shard).take(*message);
  }
  void send(Message message, int shard = 0, int from = kCoordinator) {
    ends_[size_t(from)]->send(kFirstShard + shard, std::move(message));
    deliver(shard);
  }
  std::optional<Message> arrived(int rank = kCoordinator) { return ends_[size_t(rank)]->receive(); }

  Message add_message(const ShardState& state, const std::string& job = "tone") const {
    proto::AddAdapter header;
    header.set_job(job);
    header.set_version(state.version);
    header.set_train(train_keys(train_).dump());
    header.set_method("{\"peft_type\":\"LORA\"}");
    header.set_seed(11);
    std::vector<NumberedTensor> blocks;
    for (size_t i = 0; i < state.tensors.size(); ++i) {
      auto* tensor = header.add_tensors();
      tensor->set_number(state.tensors[i].number);
      tensor->set_name(state.tensors[i].name);
      tensor->mutable_shape()->Add(state.tensors[i].shape.begin(), state.tensors[i].shape.end());
      tensor->set_moments(int(state.moments[i].size()));
      blocks.push_back({state.tensors[i].number, state.parameters[i]});
      for (const Tensor& moment : state.moments[i]) blocks.push_back({state.tensors[i].number, moment});
    }
    proto::AdapterTensors ignored;
    Message message;
    put_tensors(blocks, ignored, message);
    message.kind = uint32_t(proto::ADD_ADAPTER);
    message.header = header.SerializeAsString();
    return message;
  }
  void route(const std::vector<int64_t>& tensors, int shard = 0, const std::string& job = "tone") {
    proto::RouteAdapter header;
    header.set_job(job);
    auto* stage = header.add_stages();
    stage->set_rank(kStage);
    stage->mutable_tensors()->Add(tensors.begin(), tensors.end());
    send(make_message(proto::ROUTE_ADAPTER, header), shard);
  }
  void update(int64_t version, const UpdateStep& step, int shard = 0) {
    proto::UpdateAdapter header;
    header.set_job("tone");
    header.set_version(version);
    header.set_learning_rate(step.learning_rate);
    header.set_gradient_factor(step.gradient_factor);
    send(make_message(proto::UPDATE_ADAPTER, header), shard);
  }
  void push(int64_t version, const std::vector<int64_t>& numbers, int shard = 0) {
    std::vector<NumberedTensor> gradients;
    for (const int64_t number : numbers) gradients.push_back({number, gradient_of(version, number)});
    send(adapter_tensors(proto::GRADIENTS, "tone", version, gradients), shard, kStage);
  }
  // A step on one shard that has all tensors, without looking at what it tells.
  void step(int64_t version) {
    push(version, {0, 1, 2, 3});
    update(version, {1e-2, 0.5});
  }
  void commit(int64_t version, const std::string& job = "tone") {
    send(make_message(proto::COMMIT_ADAPTER, adapter_version(job, version)));
  }
  // Waits for the next COMMITTED.
  std::string committed() {
    for (int i = 0; i < 5000; ++i) {
      worker().poll();
      while (auto message = arrived()) {
        if (message->kind != uint32_t(proto::COMMITTED)) continue;
        const auto header = read_header<proto::AdapterVersion>(*message);
        return fmt::format("{} {}", header.job(), header.version());
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return "none";
  }
  void drain_inbox(int rank) {
    while (arrived(rank)) {
    }
  }

  TrainArguments train_;
  ThreadPool pool_{1};
  RefBackend backend_{pool_};
  std::vector<std::unique_ptr<Transport>> ends_ = make_loopback(4);
  std::unique_ptr<KvStore> memory_ = make_memory_store();
  std::map<int, std::unique_ptr<ShardWorker>> workers_;  // last: they end their writes to stores
};

inline ShardState start(int64_t version = 0, size_t moments = 0) {
  return make_state("tone", version, kShapes, moments);
}

}  // namespace coppice
