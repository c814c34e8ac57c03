#include "coordinator/params/checkpoint.h"

#include <gmock/gmock.h>

#include "proto/store.pb.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/params/states.h"

namespace coppice {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<Shape> kShapes = {{4, 3}, {7}, {}, {0, 5}};

std::vector<std::string> keys_of(const KvReader& store, std::string_view prefix = "") {
  std::vector<std::string> keys;
  store.scan(prefix, [&](std::string_view key, std::string_view) {
    keys.emplace_back(key);
    return true;
  });
  return keys;
}

class CheckpointTest : public ::testing::Test {
 protected:
  std::unique_ptr<KvStore> store_ = make_memory_store();
  CheckpointWriter writer_{*store_};
  CheckpointReader reader_{*store_};

  void put(std::string key, std::string value) {
    Batch batch;
    batch.put(std::move(key), std::move(value));
    store_->write(batch, true);
  }
};

TEST_F(CheckpointTest, ACommitComesBackAsItWas) {
  Commit commit = make_commit("tone@method.r=4", 12, kShapes);
  commit.record.reason = "none";
  commit.record.state = JobState::kDone;
  commit.record.trainable_parameters = 34;
  commit.record.backbone = "models/stool";
  commit.record.backbone_fingerprint = 0xfedcba9876543210;
  commit.record.data_fingerprint = 1;
  commit.record.dtype = "bfloat16";
  commit.record.instruction_set = "avx512";
  commit.head.eval_loss = 0.5;
  commit.head.evaluated = 10;
  commit.head.seconds = 3.25;
  writer_.commit(commit);
  const std::string& name = commit.record.name;
  const JobRecord record = reader_.record(name).value();
  EXPECT_EQ(record.name, name);
  EXPECT_EQ(record.ordinal, commit.record.ordinal);
  EXPECT_EQ(record.keys, commit.record.keys);
  EXPECT_EQ(record.method, commit.record.method);
  EXPECT_EQ(record.state, JobState::kDone);
  EXPECT_EQ(record.reason, "none");
  EXPECT_EQ(record.total_steps, 1000);
  EXPECT_EQ(record.trainable_parameters, 34);
  EXPECT_EQ(record.backbone, "models/stool");
  EXPECT_EQ(record.backbone_fingerprint, 0xfedcba9876543210);
  EXPECT_EQ(record.data_fingerprint, 1u);
  EXPECT_EQ(record.dtype, "bfloat16");
  EXPECT_EQ(record.instruction_set, "avx512");
  const JobHead head = reader_.head(name).value();
  EXPECT_EQ(head.version, 12);
  EXPECT_EQ(head.tokens, 1200);
  EXPECT_EQ(head.loss, 1.0 / 13);
  EXPECT_EQ(head.eval_loss, 0.5);
  EXPECT_EQ(head.evaluated, 10);
  EXPECT_EQ(head.seconds, 3.25);
  EXPECT_EQ(expect_whole(*store_, name, kShapes), 12);
  ASSERT_EQ(reader_.metrics(name).size(), 1u);
  EXPECT_EQ(reader_.metrics(name)[0].sequence, 12);
  EXPECT_EQ(reader_.metrics(name)[0].line, commit.metrics[0].line);
}

TEST_F(CheckpointTest, WhatIsNotThereIsSaid) {
  EXPECT_TRUE(reader_.records().empty());
  EXPECT_FALSE(reader_.record("a"));
  EXPECT_FALSE(reader_.head("a"));
  EXPECT_TRUE(reader_.metrics("a").empty());
  EXPECT_EQ(error_of([&] { reader_.state("a"); }).code(), ErrorCode::kNotFound);
}

TEST_F(CheckpointTest, ARecordMayComeBeforeAnyState) {
  Commit commit = make_commit("a", 0, kShapes);
  commit.state.reset();
  writer_.commit(commit);
  EXPECT_TRUE(reader_.record("a"));
  EXPECT_FALSE(reader_.head("a"));
}

TEST_F(CheckpointTest, OnlyTheNewestVersionStays) {
  for (int64_t version : {0, 1, 2, 15, 16, 300}) {
    writer_.commit(make_commit("a", version, kShapes));
    EXPECT_EQ(expect_whole(*store_, "a", kShapes), version);
    EXPECT_EQ(keys_of(*store_, "state/").size(), 3u * 3) << version;  // of the tensors that have values
  }
  EXPECT_EQ(keys_of(*store_, "state/").front(), "state/a/000000000000012c/00000000/0/00000000");
}

TEST_F(CheckpointTest, JobsWithNamesThatBeginAlikeAreApart) {
  const std::vector<std::string> names = {"a", "a-b", "a.b", "a@b", "aa"};
  for (int64_t version = 0; version < 3; ++version) {
    for (const std::string& name : names) writer_.commit(make_commit(name, version, kShapes));
  }
  const CheckpointWriter next(*store_);
  for (const std::string& name : names) {
    EXPECT_EQ(expect_whole(*store_, name, kShapes), 2);
    EXPECT_EQ(reader_.metrics(name).size(), 2u);
  }
  EXPECT_EQ(keys_of(*store_, "state/").size(), names.size() * 9);
  std::vector<int64_t> ordinals;
  for (const JobRecord& record : reader_.records()) ordinals.push_back(record.ordinal);
  EXPECT_THAT(ordinals, ElementsAre(1, 2, 3, 3, 3));
}

TEST_F(CheckpointTest, HeadNeverGoesBack) {
  writer_.commit(make_commit("a", 5, kShapes));
  const Error error = error_of([&] { writer_.commit(make_commit("a", 4, kShapes)); });
  EXPECT_EQ(error.code(), ErrorCode::kFailed);
  EXPECT_STREQ(error.what(), "job a: HEAD is at version 5, a commit of 4 came after it");
  EXPECT_EQ(expect_whole(*store_, "a", kShapes), 5);
}

TEST_F(CheckpointTest, ASecondCommitOfAVersionChangesWhatIsBesideTheTensors) {
  writer_.commit(make_commit("a", 5, kShapes));
  Commit again = make_commit("a", 5, kShapes);
  again.head.evaluated = 5;
  again.record.state = JobState::kDone;
  again.metrics = {{6, "{}"}};
  writer_.commit(again);
  EXPECT_EQ(expect_whole(*store_, "a", kShapes), 5);
  EXPECT_EQ(reader_.head("a")->evaluated, 5);
  EXPECT_EQ(reader_.record("a")->state, JobState::kDone);
  EXPECT_EQ(reader_.metrics("a").size(), 2u);
}

TEST_F(CheckpointTest, MetricsComeInTheirOrder) {
  Commit commit = make_commit("a", 0, kShapes);
  for (const int64_t sequence : {int64_t(16), int64_t(2), int64_t(255), int64_t(1) << 40, int64_t(0)}) {
    commit.metrics.push_back({sequence, std::to_string(sequence)});
  }
  writer_.commit(commit);
  std::vector<int64_t> order;
  for (const MetricRecord& metric : reader_.metrics("a")) {
    order.push_back(metric.sequence);
    EXPECT_EQ(metric.line, std::to_string(metric.sequence));
  }
  EXPECT_THAT(order, ElementsAre(0, 2, 16, 255, int64_t(1) << 40));
}

TEST_F(CheckpointTest, LargeTensorsAreCutIntoChunks) {
  const int64_t chunk = (8 << 20) / 4;  // elements
  const std::vector<Shape> shapes = {{chunk + 1}, {2, chunk / 2}, {3}};
  Commit commit = make_commit("a", 1, shapes);
  for (auto& moments : commit.state->moments) moments.clear();
  writer_.commit(commit);
  EXPECT_THAT(keys_of(*store_, "state/"), ElementsAre("state/a/0000000000000001/00000000/0/00000000",
                                                      "state/a/0000000000000001/00000000/0/00000001",
                                                      "state/a/0000000000000001/00000001/0/00000000",
                                                      "state/a/0000000000000001/00000002/0/00000000"));
  store_->scan("state/", [](std::string_view key, std::string_view value) {
    EXPECT_LE(value.size(), size_t(8 << 20)) << key;
    return true;
  });
  const ShardState state = reader_.state("a");
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(state.parameters[i].shape, shapes[i]);
    EXPECT_TRUE(state.parameters[i].values == commit.state->parameters[i].values);
  }
}

TEST_F(CheckpointTest, LiveBytesAreThoseOfTheStore) {
  for (int64_t version = 0; version < 4; ++version) {
    writer_.commit(make_commit("a", version, kShapes));
    writer_.commit(make_commit("b", version, {{1000}}));
  }
  size_t wanted = 0;
  store_->scan("", [&](std::string_view key, std::string_view value) {
    const bool state = key.starts_with("state/");
    if (key != "format") wanted += value.size() + (state ? 0 : key.size());
    return true;
  });
  EXPECT_EQ(reader_.live_bytes(), wanted);
}

TEST_F(CheckpointTest, WhatACrashLeftIsCollected) {
  writer_.commit(make_commit("a", 3, kShapes));
  const auto whole = keys_of(*store_);
  for (const char* key :
       {"state/a/0000000000000002/00000000/0/00000000", "state/a/0000000000000004/00000000/0/00000000",
        "state/A/0000000000000000/00000000/0/00000000", "state/a-b/0000000000000003/00000000/0/00000000",
        "state/b/0000000000000003/00000000/0/00000000"}) {
    put(key, "left");
  }
  const CheckpointWriter next(*store_);
  EXPECT_EQ(keys_of(*store_), whole);
  EXPECT_EQ(expect_whole(*store_, "a", kShapes), 3);
}

TEST_F(CheckpointTest, AnotherFormatIsRefused) {
  put("format", "2");
  EXPECT_EQ(message_of([&] { CheckpointReader reader(*store_); }), "store: its format is 2; 1 is accepted");
  EXPECT_EQ(message_of([&] { CheckpointWriter writer(*store_); }), "store: its format is 2; 1 is accepted");
}

// Every kind of value, cut or changed: an error that names the key, or what was there before. Never anything
// else.
TEST_F(CheckpointTest, ADamagedValueIsNamedByItsKey) {
  writer_.commit(make_commit("a", 3, kShapes));
  const auto read_all = [&] {
    const CheckpointReader reader(*store_);
    reader.records();
    reader.head("a");
    reader.state("a");
    reader.metrics("a");
    reader.live_bytes();
  };
  EXPECT_NO_THROW(read_all());
  for (const std::string& key : keys_of(*store_)) {
    const std::string good = store_->get(key).value();
    int refused = 0;
    const auto try_value = [&](const std::string& value) {
      put(key, value);
      try {
        read_all();
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalid) << error.what();
        const std::string message = error.what();
        // A head that names other chunks is told by the chunk that is missing.
        const bool named = message.find(key) != std::string::npos || message.starts_with("store: ");
        EXPECT_TRUE(named) << key << ": " << message;
        ++refused;
      }
    };
    for (size_t size = 0; size < good.size(); ++size) try_value(good.substr(0, size));
    for (size_t i = 0; i < good.size(); ++i) {
      for (const int mask : {0x01, 0x80, 0xff}) {
        std::string changed = good;
        changed[i] = char(changed[i] ^ mask);
        try_value(changed);
      }
    }
    try_value(good + "x");
    if (!key.starts_with("metric/")) {
      EXPECT_GT(refused, 0) << key;
    }
    put(key, good);
  }
  EXPECT_NO_THROW(read_all());
}

TEST_F(CheckpointTest, DamageThatMattersIsSaidPrecisely) {
  writer_.commit(make_commit("a", 3, {{4}}));
  const auto state = [&] { reader_.state("a"); };
  const std::string chunk = "state/a/0000000000000003/00000000/1/00000000";
  put(chunk, std::string(12, 'x'));
  EXPECT_EQ(message_of(state),
            "store: the value of " + chunk + " is damaged: it has 12 bytes, its part of shape [4] needs 16");
  Batch batch;
  batch.erase(chunk);
  store_->write(batch, true);
  EXPECT_EQ(message_of(state), "store: " + chunk + " is missing");
  put("head/a", "\xff");
  EXPECT_EQ(message_of(state), "store: the value of head/a is damaged: it cannot be parsed");
  put("record/a", store_->get("record/a").value() + "\x28\x63");  // field 5, state: 99
  EXPECT_EQ(message_of([&] { reader_.records(); }), "store: the value of record/a is damaged: state is 99");
  put("record/b", "");
  EXPECT_THAT(message_of([&] { reader_.record("b"); }),
              AllOf(HasSubstr("record/b"), HasSubstr("it is of job ")));
}

TEST_F(CheckpointTest, AKeyThatIsNoMetricIsNamed) {
  writer_.commit(make_commit("a", 1, kShapes));
  for (const char* key :
       {"metric/a/", "metric/a/12", "metric/a/00000000000000zz", "metric/a/0000000000000001/x",
        "metric/a/ffffffffffffffff", "metric/a/+000000000000001", "metric/a/000000000000000A"}) {
    put(key, "{}");
    EXPECT_EQ(message_of([&] { reader_.metrics("a"); }), fmt::format("store: {} is no key of a metric", key));
    Batch batch;
    batch.erase(key);
    store_->write(batch, true);
  }
}

TEST_F(CheckpointTest, AShapeThatCannotBeIsDamage) {
  for (const Shape& shape : {Shape{-1}, Shape{int64_t(1) << 62, 4}, Shape{1 << 20, 1 << 20, 1 << 20}}) {
    Commit commit = make_commit("a", 1, {{2}});
    writer_.commit(commit);
    std::string head = store_->get("head/a").value();
    proto::StoredHead stored;
    ASSERT_TRUE(stored.ParseFromString(head));
    stored.mutable_tensors(0)->mutable_shape()->Clear();
    stored.mutable_tensors(0)->mutable_shape()->Add(shape.begin(), shape.end());
    put("head/a", stored.SerializeAsString());
    EXPECT_EQ(message_of([&] { reader_.state("a"); }),
              fmt::format("store: the value of head/a is damaged: tensor layers.0.lora_A has the shape {}",
                          shape_string(shape)));
    put("head/a", head);
  }
}

TEST(JobStateTest, EveryStateHasAName) {
  const std::vector<std::string_view> names = {"queued", "running", "paused", "done", "failed", "cancelled"};
  for (size_t i = 0; i < names.size(); ++i) EXPECT_EQ(job_state_name(JobState(i)), names[i]);
}

}  // namespace
}  // namespace coppice
