// A shard's worker and its store: commits beside the steps, and what is there after a stop.

#include <gmock/gmock.h>

#include <atomic>

#include "coordinator/params/checkpoint.h"
#include "tests/unit/coordinator/params/shard_worker_rig.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ShardWorkerStoreTest : public ShardWorkerRig {};

std::vector<std::string> states_in(const KvReader& store) {
  std::vector<std::string> states;
  store.scan("state/", [&](std::string_view key, std::string_view) {
    const std::string state(key.substr(0, std::string_view("state/tone/0000000000000000").size()));
    if (states.empty() || states.back() != state) states.push_back(state);
    return true;
  });
  return states;
}

TEST_F(ShardWorkerStoreTest, CommitsAreToldWhenTheyAreDurableAndOldOnesReleased) {
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
TEST_F(ShardWorkerStoreTest, ACommittedStateGoesOnToTheSameBits) {
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

TEST_F(ShardWorkerStoreTest, AStoreThatCannotBeWrittenIsToldAndNothingIsWrittenAfterIt) {
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
