#include "coordinator/params/shard_checkpoint.h"

#include <gmock/gmock.h>

#include <map>

#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/params/states.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<Shape> kShapes = {{4, 3}, {7}, {2, 2}};

// The tensors of make_state that a shard owns, in their order.
ShardState part_of(const ShardState& whole, const std::vector<int>& places, int shard) {
  ShardState part;
  part.version = whole.version;
  for (size_t i = 0; i < places.size(); ++i) {
    if (places[i] != shard) continue;
    part.tensors.push_back(whole.tensors[i]);
    part.parameters.push_back(whole.parameters[i]);
    part.moments.push_back(whole.moments[i]);
  }
  return part;
}

// HEAD to a version that lies in shards.
Commit moved(const std::string& job, int64_t version, const std::vector<int>& places) {
  Commit commit = make_commit(job, version, kShapes);
  StoredElsewhere elsewhere;
  elsewhere.version = version;
  elsewhere.tensors = commit.state->tensors;
  for (size_t i = 0; i < places.size(); ++i) elsewhere.tensors[i].shard = places[i];
  elsewhere.moments.assign(places.size(), 2);
  commit.state.reset();
  commit.elsewhere = std::move(elsewhere);
  return commit;
}

std::vector<std::string> chunks_in(const KvReader& store) {
  std::vector<std::string> keys;
  store.scan("state/", [&](std::string_view key, std::string_view) {
    keys.emplace_back(key);
    return true;
  });
  return keys;
}

class ShardCheckpointTest : public ::testing::Test {
 protected:
  ShardCheckpointTest() {
    for (int shard = 1; shard <= 2; ++shard) {
      stores_[shard] = make_memory_store();
      shards_.emplace(shard, *stores_[shard]);
    }
  }
  KvReader& store_of(int shard) {
    ++asked_;
    if (!stores_.contains(shard)) throw not_found("store/shard-{}: is no store", shard);
    return *stores_.at(shard);
  }
  CheckpointReader reader() {
    return CheckpointReader(*head_, [this](int shard) -> KvReader& { return store_of(shard); });
  }
  void write(const std::string& job, int64_t version, const std::vector<int>& places) {
    for (auto& [shard, checkpoint] : shards_) {
      checkpoint.write(job, part_of(make_state(job, version, kShapes), places, shard));
    }
  }
  // As expect_whole, over shards.
  int64_t expect_whole_state(const std::string& job) {
    const ShardState state = reader().state(job);
    const ShardState wanted = make_state(job, state.version, kShapes);
    EXPECT_EQ(state.tensors.size(), kShapes.size());
    for (size_t i = 0; i < state.tensors.size(); ++i) {
      EXPECT_EQ(state.tensors[i].number, int64_t(i));
      EXPECT_EQ(state.tensors[i].name, wanted.tensors[i].name);
      EXPECT_TRUE(state.parameters[i].values == wanted.parameters[i].values) << i;
      EXPECT_TRUE(state.moments[i][1].values == wanted.moments[i][1].values) << i;
    }
    return state.version;
  }

  std::unique_ptr<KvStore> head_ = make_memory_store();
  CheckpointWriter writer_{*head_};
  std::map<int, std::unique_ptr<KvStore>> stores_;
  std::map<int, ShardCheckpoint> shards_;
  int asked_ = 0;
};

TEST_F(ShardCheckpointTest, AStateIsReadFromWhereHeadSaysEachTensorIs) {
  write("a", 5, {1, 2, 1});
  writer_.commit(moved("a", 5, {1, 2, 1}));
  EXPECT_EQ(expect_whole_state("a"), 5);
  EXPECT_EQ(asked_, 2);
  const ShardState state = reader().state("a");
  EXPECT_EQ(state.tensors[0].shard, 1);
  EXPECT_EQ(state.tensors[1].shard, 2);
  EXPECT_EQ(reader().head("a")->version, 5);
  EXPECT_EQ(reader().metrics("a").size(), 1u);
  EXPECT_THAT(reader().shards(), ElementsAre(1, 2));
  EXPECT_THAT(chunks_in(*head_), IsEmpty());
  // A tensor's number is in its keys, not its place in the shard.
  EXPECT_THAT(chunks_in(*stores_[2]), ElementsAre("state/a/0000000000000005/00000001/0/00000000",
                                                  "state/a/0000000000000005/00000001/1/00000000",
                                                  "state/a/0000000000000005/00000001/2/00000000"));
}

TEST_F(ShardCheckpointTest, HeadMovesFromTheStoreToShardsAndBack) {
  writer_.commit(make_commit("a", 1, kShapes));
  EXPECT_EQ(chunks_in(*head_).size(), 9u);
  write("a", 2, {2, 2, 1});
  writer_.commit(moved("a", 2, {2, 2, 1}));
  EXPECT_THAT(chunks_in(*head_), IsEmpty());
  EXPECT_EQ(expect_whole_state("a"), 2);
  writer_.commit(make_commit("a", 3, kShapes));
  EXPECT_EQ(expect_whole_state("a"), 3);
  EXPECT_THAT(reader().shards(), IsEmpty());
  EXPECT_EQ(chunks_in(*head_).size(), 9u);
}

// A resume on other shards may commit the version that it began with: its tensors stay where they are.
TEST_F(ShardCheckpointTest, AVersionThatIsInShardsStaysThere) {
  write("a", 2, {2, 2, 1});
  writer_.commit(moved("a", 2, {2, 2, 1}));
  Commit again = make_commit("a", 2, kShapes);
  again.head.evaluated = 2;
  writer_.commit(again);
  EXPECT_EQ(reader().head("a")->evaluated, 2);
  EXPECT_EQ(expect_whole_state("a"), 2);
  EXPECT_THAT(reader().shards(), ElementsAre(1, 2));
  writer_.commit(moved("a", 2, {1, 1, 1}));
  EXPECT_EQ(expect_whole_state("a"), 2);
  EXPECT_THAT(chunks_in(*head_), IsEmpty());
}

TEST_F(ShardCheckpointTest, AVersionThatIsInTheStoreStaysThere) {
  writer_.commit(make_commit("a", 2, kShapes));
  writer_.commit(moved("a", 2, {1, 2, 1}));
  EXPECT_EQ(expect_whole_state("a"), 2);
  EXPECT_EQ(asked_, 0);
}

TEST_F(ShardCheckpointTest, HeadDoesNotGoBackToAVersionOfShards) {
  writer_.commit(moved("a", 5, {1, 1, 1}));
  EXPECT_EQ(message_of([&] {
              writer_.commit(moved("a", 4, {1, 1, 1}));
            }),
            "job a: HEAD is at version 5, a commit of 4 came after it");
}

TEST_F(ShardCheckpointTest, OldVersionsAreReleased) {
  for (int64_t version : {1, 2, 15, 16}) {
    write("a", version, {1, 1, 1});
    write("a-b", version, {1, 1, 1});
  }
  EXPECT_EQ(chunks_in(*stores_[1]).size(), 2u * 4 * 9);
  shards_.at(1).release("a", 16);
  EXPECT_EQ(chunks_in(*stores_[1]).size(), 5u * 9);
  shards_.at(1).release("a", 16);
  shards_.at(1).release("none", 3);
  EXPECT_EQ(chunks_in(*stores_[1]).size(), 5u * 9);
  EXPECT_THAT(chunks_in(*stores_[1]).front(), HasSubstr("state/a-b/"));
  EXPECT_THAT(chunks_in(*stores_[1]).back(), HasSubstr("state/a/0000000000000010/"));
}

TEST_F(ShardCheckpointTest, OneVersionIsKeptOfAJobThatGoesOn) {
  for (int64_t version : {1, 2, 3}) write("a", version, {1, 1, 1});
  write("aa", 3, {1, 1, 1});
  shards_.at(1).keep_only("a", 2);
  const auto left = chunks_in(*stores_[1]);
  EXPECT_EQ(left.size(), 2u * 9);
  EXPECT_THAT(left.front(), HasSubstr("state/a/0000000000000002/"));
  EXPECT_THAT(left.back(), HasSubstr("state/aa/"));
}

TEST_F(ShardCheckpointTest, OpeningErasesNothingAndChecksTheFormat) {
  write("a", 1, {1, 1, 1});
  ShardCheckpoint again(*stores_[1]);
  EXPECT_EQ(chunks_in(*stores_[1]).size(), 9u);
  Batch batch;
  batch.put("format", "2");
  stores_[1]->write(batch, true);
  EXPECT_EQ(message_of([&] { ShardCheckpoint checkpoint(*stores_[1]); }),
            "store: its format is 2; 1 is accepted");
  writer_.commit(moved("a", 1, {1, 1, 1}));
  EXPECT_EQ(message_of([&] { reader().state("a"); }), "store: its format is 2; 1 is accepted");
}

TEST_F(ShardCheckpointTest, AJobThatIsNoNameIsRefused) {
  for (const char* name : {"", "a/b"}) {
    EXPECT_EQ(error_of([&] { shards_.at(1).write(name, {}); }).code(), ErrorCode::kInvalid);
    EXPECT_EQ(error_of([&] { shards_.at(1).release(name, 1); }).code(), ErrorCode::kInvalid);
    EXPECT_EQ(error_of([&] { shards_.at(1).keep_only(name, 1); }).code(), ErrorCode::kInvalid);
  }
}

TEST_F(ShardCheckpointTest, WithoutShardsAHeadThatNamesThemIsRefused) {
  writer_.commit(moved("a", 5, {1, 2, 1}));
  const Error error = error_of([&] { CheckpointReader(*head_).state("a"); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalid);
  EXPECT_STREQ(
      error.what(),
      "store: tensor layers.0.lora_A of job a is in shard 1, and the stores of shards are not at hand");
}

TEST_F(ShardCheckpointTest, WhatIsNotInItsShardIsSaidAfterTheTries) {
  writer_.commit(moved("a", 5, {1, 2, 1}));
  EXPECT_EQ(message_of([&] { reader().state("a"); }),
            "store: state/a/0000000000000005/00000000/0/00000000 is missing in shard 1");
  EXPECT_GT(asked_, 5);
  stores_.erase(1);
  EXPECT_EQ(error_of([&] { reader().state("a"); }).code(), ErrorCode::kNotFound);
}

// A view of stores that stays as it was until refresh(), as a reader's beside a live run.
class View : public KvReader {
 public:
  View(KvStore& live, std::function<void()> before_refresh = nullptr)
      : live_(live), before_refresh_(std::move(before_refresh)) {
    copy();
  }
  std::optional<std::string> get(std::string_view key) const override { return seen_->get(key); }
  void scan(std::string_view prefix,
            const std::function<bool(std::string_view, std::string_view)>& visit) const override {
    seen_->scan(prefix, visit);
  }
  void refresh() override {
    if (before_refresh_) before_refresh_();
    copy();
  }

 private:
  void copy() {
    seen_ = make_memory_store();
    Batch batch;
    live_.scan("", [&](std::string_view key, std::string_view value) {
      batch.put(std::string(key), std::string(value));
      return true;
    });
    seen_->write(batch, true);
  }
  KvStore& live_;
  std::function<void()> before_refresh_;
  std::unique_ptr<KvStore> seen_;
};

// The run moves on by a version between the reader's look at HEAD and at the shards, three times over.
TEST_F(ShardCheckpointTest, AReaderBesideALiveRunFollowsIt) {
  const std::vector<int> places = {1, 2, 1};
  int64_t version = 1;
  const auto step = [&] {
    write("a", version, places);
    writer_.commit(moved("a", version, places));
    for (auto& [shard, checkpoint] : shards_) checkpoint.release("a", version);
    ++version;
  };
  step();
  View head(*head_);
  step();  // the reader's HEAD is behind already
  std::map<int, View> views;
  int refreshed = 0;
  for (int shard : {1, 2}) {
    views.emplace(std::piecewise_construct, std::forward_as_tuple(shard),
                  std::forward_as_tuple(*stores_[shard], [&] {
                    if (++refreshed <= 3) step();
                  }));
  }
  const CheckpointReader reader(head, [&](int shard) -> KvReader& { return views.at(shard); });
  const ShardState state = reader.state("a");
  EXPECT_GT(refreshed, 3);
  EXPECT_EQ(state.version, 5);
  const ShardState wanted = make_state("a", 5, kShapes);
  for (size_t i = 0; i < kShapes.size(); ++i) {
    EXPECT_TRUE(state.parameters[i].values == wanted.parameters[i].values) << i;
  }
}

}  // namespace
}  // namespace coppice
