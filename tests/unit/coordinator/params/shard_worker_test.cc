#include "coordinator/params/shard_worker.h"

#include <gmock/gmock.h>

#include "coordinator/params/placement.h"
#include "tests/unit/coordinator/params/shard_worker_rig.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ShardWorkerTest : public ShardWorkerRig {};

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

}  // namespace
}  // namespace coppice
