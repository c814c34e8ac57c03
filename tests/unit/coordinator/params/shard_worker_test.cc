#include "coordinator/params/shard_worker.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "common/base/thread_pool.h"
#include "coordinator/jobs/train_arguments.h"
#include "coordinator/params/checkpoint.h"
#include "coordinator/params/placement.h"
#include "kernels/ref/ref_backend.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/params/states.h"
#include "worker/messages.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<Shape> kShapes = {{4, 3}, {7}, {2, 2}, {5, 2}};
constexpr int kCoordinator = 0, kStage = 1, kFirstShard = 2;

Tensor gradient_of(int64_t version, int64_t number) {
  Tensor made(kShapes[size_t(number)]);
  for (size_t i = 0; i < made.values.size(); ++i) {
    made.values[i] = 0.01f * float((int64_t(i) * 7 + number * 3 + version * 5) % 11) - 0.04f;
  }
  return made;
}

proto::AdapterVersion adapter_version(const std::string& job, int64_t version) {
  proto::AdapterVersion header;
  header.set_job(job);
  header.set_version(version);
  return header;
}

Message adapter_tensors(proto::MessageKind kind, const std::string& job, int64_t version,
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

// A coordinator, a stage, and up to two shards over loopback; the test plays the first two.
class ShardWorkerTest : public ::testing::Test {
 protected:
  ShardWorkerTest() {
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

ShardState start(int64_t version = 0, size_t moments = 0) {
  return make_state("tone", version, kShapes, moments);
}

TEST_F(ShardWorkerTest, ALifeOfStepsIsThatOfItsShardToTheBit) {
  Shard wanted(backend_);
  ShardState state = start(3, 2);
  for (auto& parts : state.moments) {
    for (Tensor& moment : parts) {
      for (float& value : moment.values) value *= 1e-7f;
    }
  }
  wanted.add("tone", train_, state);
  send(add_message(state));
  EXPECT_FALSE(arrived(kStage)) << "nothing is published before there is a route";
  route({0, 2, 1, 3});
  for (int64_t version = 3; version < 7; ++version) {
    auto published = arrived(kStage);
    ASSERT_TRUE(published);
    EXPECT_EQ(published->kind, uint32_t(proto::PUBLISH));
    const auto header = read_header<proto::AdapterTensors>(*published);
    EXPECT_EQ(header.version(), version);
    EXPECT_EQ(header.method(), "{\"peft_type\":\"LORA\"}");
    EXPECT_EQ(header.seed(), 11u);
    EXPECT_TRUE(header.training());
    const auto tensors = get_tensors(header, *published);
    ASSERT_EQ(tensors.size(), 4u);
    for (const NumberedTensor& tensor : tensors) {
      EXPECT_EQ(tensor.tensor.values, wanted.parameter("tone", tensor.number).values);
    }
    EXPECT_FALSE(arrived(kStage));

    push(version, {3, 1});
    EXPECT_FALSE(arrived());
    push(version, {0, 2});
    const auto told = arrived();
    ASSERT_TRUE(told);
    EXPECT_EQ(told->kind, uint32_t(proto::GRADIENT_NORMS));
    const auto norms = read_header<proto::GradientNorms>(*told);
    EXPECT_EQ(norms.version(), version);
    EXPECT_THAT(norms.tensors(), ElementsAre(0, 1, 2, 3));
    for (int64_t number = 0; number < 4; ++number)
      wanted.push("tone", version, number, gradient_of(version, number));
    const auto squared = wanted.squared_norms("tone");
    EXPECT_EQ(std::vector<double>(norms.squared_norms().begin(), norms.squared_norms().end()), squared);
    wanted.update("tone", {1e-2, 0.5});
    update(version, {1e-2, 0.5});
    EXPECT_EQ(worker().shard().version("tone"), version + 1);
  }
  const ShardState got = worker().shard().state("tone"), want = wanted.state("tone");
  for (size_t i = 0; i < kShapes.size(); ++i) {
    EXPECT_EQ(got.parameters[i].values, want.parameters[i].values);
    EXPECT_EQ(got.moments[i][0].values, want.moments[i][0].values);
    EXPECT_EQ(got.moments[i][1].values, want.moments[i][1].values);
  }
}

TEST_F(ShardWorkerTest, TwoShardsTogetherHoldTheBitsOfOne) {
  const std::vector<int> places = place_tensors(kShapes, 2);
  Shard whole(backend_);
  whole.add("tone", train_, start());
  std::vector<std::vector<int64_t>> owned(2);
  for (int shard = 0; shard < 2; ++shard) {
    ShardState part;
    const ShardState all = start();
    for (size_t i = 0; i < places.size(); ++i) {
      if (places[i] != shard) continue;
      owned[size_t(shard)].push_back(int64_t(i));
      part.tensors.push_back(all.tensors[i]);
      part.parameters.push_back(all.parameters[i]);
      part.moments.push_back({});
    }
    ASSERT_FALSE(part.tensors.empty());
    send(add_message(part), shard);
    route(owned[size_t(shard)], shard);
  }
  for (int64_t version = 0; version < 3; ++version) {
    std::vector<double> norms(4, -1);
    for (int shard = 0; shard < 2; ++shard) {
      push(version, owned[size_t(shard)], shard);
      const auto told = arrived();
      ASSERT_TRUE(told);
      const auto header = read_header<proto::GradientNorms>(*told);
      for (int i = 0; i < header.tensors_size(); ++i)
        norms.at(size_t(header.tensors(i))) = header.squared_norms(i);
    }
    for (int64_t number = 0; number < 4; ++number)
      whole.push("tone", version, number, gradient_of(version, number));
    EXPECT_EQ(norms, whole.squared_norms("tone"));
    whole.update("tone", {1e-2, 0.5});
    for (int shard = 0; shard < 2; ++shard) update(version, {1e-2, 0.5}, shard);
  }
  int64_t found = 0;
  for (int shard = 0; shard < 2; ++shard) {
    for (const int64_t number : owned[size_t(shard)]) {
      EXPECT_EQ(worker(shard).shard().parameter("tone", number).values,
                whole.parameter("tone", number).values);
      ++found;
    }
  }
  EXPECT_EQ(found, 4);
}

TEST_F(ShardWorkerTest, ARouteSendsTheVersionOfNowAndBeginsTheStepAnew) {
  send(add_message(start(5)));
  push(5, {0, 1});
  route({2});
  const auto published = arrived(kStage);
  ASSERT_TRUE(published);
  const auto header = read_header<proto::AdapterTensors>(*published);
  EXPECT_EQ(header.version(), 5);
  EXPECT_EQ(header.tensors_size(), 1);
  push(5, {2, 3});
  EXPECT_FALSE(arrived()) << "two gradients were dropped";
  push(5, {0, 1});
  EXPECT_TRUE(arrived());
}

TEST_F(ShardWorkerTest, GradientsThatComeLateAreDropped) {
  send(add_message(start(5)));
  step(5);
  drain_inbox(kCoordinator);
  push(5, {0, 1, 2, 3});
  EXPECT_FALSE(arrived());
  push(6, {0, 1});
  push(6, {0, 1});
  push(6, {2, 3});
  EXPECT_TRUE(arrived());
  push(6, {2, 3});
  EXPECT_FALSE(arrived()) << "the norms are told once";
  update(6, {1e-2, 0.5});
  EXPECT_EQ(worker().shard().version("tone"), 7);
}

TEST_F(ShardWorkerTest, WhatIsOfAnotherVersionIsRefused) {
  worker(0, memory_.get());
  send(add_message(start(5)));
  EXPECT_EQ(message_of([&] { push(6, {0}); }), "job tone: a gradient is of version 6, the adapter is at 5");
  EXPECT_EQ(message_of([&] {
              update(4, {1e-2, 1});
            }),
            "job tone: an update is of version 4, the adapter is at 5");
  EXPECT_EQ(message_of([&] { commit(4); }), "job tone: a commit is of version 4, the adapter is at 5");
  EXPECT_THAT(message_of([&] { update(5, {1e-2, 1}); }), HasSubstr("4 gradients are missing"));
  EXPECT_EQ(worker().shard().version("tone"), 5);
}

TEST_F(ShardWorkerTest, MessagesOfJobsThatHaveLeftAreDropped) {
  worker(0, memory_.get());
  send(add_message(start()));
  proto::DropAdapter drop;
  drop.set_job("tone");
  send(make_message(proto::DROP_ADAPTER, drop));
  EXPECT_FALSE(worker().shard().has("tone"));
  send(make_message(proto::DROP_ADAPTER, drop));
  route({0});
  push(0, {0, 1, 2, 3});
  update(0, {1e-2, 1});
  commit(0);
  send(make_message(proto::FETCH_PARAMETERS, adapter_version("tone", 0)));
  worker().drain();
  EXPECT_FALSE(arrived());
  EXPECT_FALSE(arrived(kStage));
}

TEST_F(ShardWorkerTest, ParametersAreFetched) {
  send(add_message(start()));
  step(0);
  drain_inbox(kCoordinator);
  send(make_message(proto::FETCH_PARAMETERS, adapter_version("tone", 1)));
  const auto answer = arrived();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->kind, uint32_t(proto::PARAMETERS));
  const auto header = read_header<proto::AdapterTensors>(*answer);
  EXPECT_EQ(header.job(), "tone");
  EXPECT_EQ(header.version(), 1);
  const auto tensors = get_tensors(header, *answer);
  ASSERT_EQ(tensors.size(), 4u);
  for (int64_t number = 0; number < 4; ++number) {
    EXPECT_EQ(tensors[size_t(number)].number, number);
    EXPECT_EQ(tensors[size_t(number)].tensor.values, worker().shard().parameter("tone", number).values);
  }
}

TEST_F(ShardWorkerTest, WhatDoesNotFitIsRefused) {
  const Message good = add_message(start(0, 2));
  const auto changed = [&](const auto& change) {
    auto header = read_header<proto::AddAdapter>(good);
    change(header);
    Message message = add_message(start(0, 2));
    message.header = header.SerializeAsString();
    const Error error = error_of([&] { send(std::move(message)); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalid) << error.what();
    EXPECT_FALSE(worker().shard().has("tone"));
    return std::string(error.what());
  };
  EXPECT_THAT(changed([](auto& header) { header.mutable_tensors()->RemoveLast(); }),
              HasSubstr("9 are announced, 12 arrived"));
  EXPECT_THAT(changed([](auto& header) { header.mutable_tensors(1)->set_moments(1); }),
              HasSubstr("11 are announced, 12 arrived"));
  EXPECT_THAT(changed([](auto& header) { header.mutable_tensors(1)->set_moments(-1); }),
              HasSubstr("tensor layers.1.lora_A is announced with -1 moments"));
  EXPECT_THAT(changed([](auto& header) { header.mutable_tensors(1)->set_shape(0, 6); }),
              HasSubstr("tensor 1 of job tone: shape [6] does not fit 28 bytes"));
  EXPECT_THAT(changed([](auto& header) { header.mutable_tensors(1)->set_number(0); }),
              HasSubstr("two tensors have the number 0"));
  EXPECT_THAT(changed([](auto& header) { header.set_train("{\"optim\":\"adagrad\"}"); }),
              HasSubstr("train block of job tone"));
  EXPECT_THAT(changed([](auto& header) { header.set_train("{"); }), HasSubstr("train block of job tone"));
  EXPECT_THAT(changed([](auto& header) { header.set_train("{\"optim\":\"sgd\"}"); }),
              HasSubstr("has 2 moments, its optimizer needs 0"));
  EXPECT_THAT(changed([](auto& header) { header.set_job("a/b"); }), HasSubstr("job \"a/b\""));
  EXPECT_THAT(changed([](auto& header) { header.set_version(-1); }), HasSubstr("version is -1"));
  send(add_message(start()));
  EXPECT_THAT(message_of([&] { route({0, 9}); }), HasSubstr("a route names tensor 9"));
  EXPECT_THAT(message_of([&] {
                send(adapter_tensors(proto::GRADIENTS, "tone", 0, {{0, Tensor({3, 4})}}), 0, kStage);
              }),
              HasSubstr("has the shape [3, 4], not [4, 3]"));
  EXPECT_THAT(message_of([&] { commit(0); }), HasSubstr("this shard has no store"));
  Message cut = make_message(proto::UPDATE_ADAPTER, adapter_version("tone", 0));
  cut.header.resize(cut.header.size() - 1);
  EXPECT_THAT(message_of([&] { send(std::move(cut)); }), HasSubstr("its header cannot be read"));
  EXPECT_THAT(message_of([&] { send(make_message(proto::PACK_DONE, proto::PackDone())); }),
              HasSubstr("is not for a shard"));
}

std::vector<std::string> states_in(const KvReader& store) {
  std::vector<std::string> states;
  store.scan("state/", [&](std::string_view key, std::string_view) {
    const std::string state(key.substr(0, std::string_view("state/tone/0000000000000000").size()));
    if (states.empty() || states.back() != state) states.push_back(state);
    return true;
  });
  return states;
}

TEST_F(ShardWorkerTest, CommitsAreToldWhenTheyAreDurableAndOldOnesReleased) {
  worker(0, memory_.get());
  send(add_message(start()));
  send(add_message(make_state("long", 8, kShapes, 0), "long"));
  step(0);
  commit(1);
  commit(8, "long");
  step(1);  // the copy of version 1 is its own
  commit(2);
  EXPECT_EQ(committed(), "tone 1");
  EXPECT_EQ(committed(), "long 8");
  EXPECT_EQ(committed(), "tone 2");
  EXPECT_THAT(states_in(*memory_), ElementsAre("state/long/0000000000000008", "state/tone/0000000000000001",
                                             "state/tone/0000000000000002"));
  send(make_message(proto::RELEASE_VERSIONS, adapter_version("tone", 2)));
  worker().drain();
  EXPECT_THAT(states_in(*memory_), ElementsAre("state/long/0000000000000008", "state/tone/0000000000000002"));
  EXPECT_THAT(message_of([&] { send(make_message(proto::RELEASE_VERSIONS, adapter_version("tone", -2))); }),
              HasSubstr("cannot be released"));
}

// On a real store, through a stop: what is there of other versions than HEAD's goes when the job goes on.
TEST_F(ShardWorkerTest, ACommittedStateGoesOnToTheSameBits) {
  const TestFolder folder;
  const auto head_store = make_memory_store();
  CheckpointWriter writer(*head_store);
  Shard wanted(backend_);
  wanted.add("tone", train_, start());
  {
    const auto store = open_rocksdb(folder.file("shard-1"));
    worker(0, store.get());
    send(add_message(start()));
    for (int64_t version = 0; version < 3; ++version) {
      step(version);
      commit(version + 1);
    }
    worker().drain();
    workers_.clear();
    EXPECT_EQ(states_in(*store).size(), 3u);
  }
  Commit commit = make_commit("tone", 2, kShapes);
  commit.elsewhere = StoredElsewhere{2, commit.state->tensors, std::vector<int>(4, 2)};
  for (ShardTensor& tensor : commit.elsewhere->tensors) tensor.shard = 1;
  commit.state.reset();
  writer.commit(commit);

  const auto store = open_rocksdb(folder.file("shard-1"));
  const ShardState stored =
      CheckpointReader(*head_store, [&](int) -> KvReader& { return *store; }).state("tone");
  worker(0, store.get());
  send(add_message(stored));
  worker().drain();
  EXPECT_THAT(states_in(*store), ElementsAre("state/tone/0000000000000002"));
  step(2);
  for (int64_t version = 0; version < 3; ++version) {
    for (int64_t number = 0; number < 4; ++number)
      wanted.push("tone", version, number, gradient_of(version, number));
    wanted.update("tone", {1e-2, 0.5});
  }
  const ShardState got = worker().shard().state("tone"), want = wanted.state("tone");
  EXPECT_EQ(got.version, 3);
  for (size_t i = 0; i < kShapes.size(); ++i) {
    EXPECT_EQ(got.parameters[i].values, want.parameters[i].values);
    EXPECT_EQ(got.moments[i][1].values, want.moments[i][1].values);
  }
  workers_.clear();
}

// A store that fails from some write on.
class FailingStore : public KvStore {
 public:
  explicit FailingStore(KvStore& store) : store_(store) {}
  std::optional<std::string> get(std::string_view key) const override { return store_.get(key); }
  void scan(std::string_view prefix,
            const std::function<bool(std::string_view, std::string_view)>& visit) const override {
    store_.scan(prefix, visit);
  }
  void write(const Batch& batch, bool sync) override {
    if (fails) throw Error(ErrorCode::kExhausted, "the disk is full");
    store_.write(batch, sync);
  }
  std::atomic<bool> fails = false;

 private:
  KvStore& store_;
};

TEST_F(ShardWorkerTest, AStoreThatCannotBeWrittenIsToldAndNothingIsWrittenAfterIt) {
  FailingStore store(*memory_);
  worker(0, &store);
  send(add_message(start()));
  commit(0);
  EXPECT_EQ(committed(), "tone 0");
  step(0);
  store.fails = true;
  commit(1);
  EXPECT_EQ(error_of([&] { worker().drain(); }).code(), ErrorCode::kExhausted);
  store.fails = false;
  step(1);
  commit(2);
  worker().drain();
  workers_.clear();
  EXPECT_THAT(states_in(*memory_), ElementsAre("state/tone/0000000000000000"));
}

}  // namespace
}  // namespace coppice
