#include "coordinator/cli/run_folder.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "common/store/folder_lock.h"
#include "coordinator/params/shard_checkpoint.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;

// A job of three tensors, each value a function of version, tensor and part.
ShardState state_at(int64_t version) {
  ShardState state;
  state.version = version;
  for (int64_t t = 0; t < 3; ++t) {
    state.tensors.push_back({t, "t" + std::to_string(t), {t + 2, 1000}});
    auto& parts = state.moments.emplace_back();
    for (int64_t part = 0; part < 3; ++part) {
      Tensor values(state.tensors.back().shape);
      values.values.assign(values.values.size(), float(version * 100 + t * 10 + part));
      if (part == 0) {
        state.parameters.push_back(std::move(values));
      } else {
        parts.push_back(std::move(values));
      }
    }
  }
  return state;
}

ShardState part_of(const ShardState& whole, size_t tensor) {
  return {whole.version, {whole.tensors[tensor]}, {whole.parameters[tensor]}, {whole.moments[tensor]}};
}

class RunFolderTest : public ::testing::Test {
 protected:
  RunFolderTest() {
    Json keys = {{"peft_type", "LORA"}, {"r", 2}, {"target_modules", {"q_proj"}}};
    BackboneConfig& config = backbone_.config;
    config.hidden = 8;
    config.intermediate = 16;
    config.layers = 1;
    config.heads = config.kv_heads = 1;
    config.head_dim = 8;
    config.vocabulary = 16;
    prepared_.spec.name = "tone";
    prepared_.method = configure_method(keys, config, "method");
  }

  // Tensor t in shard t + 1, of which there are three.
  Commit commit_elsewhere(int64_t version) const {
    StoredElsewhere elsewhere;
    elsewhere.version = version;
    elsewhere.tensors = state_at(version).tensors;
    for (ShardTensor& tensor : elsewhere.tensors) tensor.shard = int(tensor.number) + 1;
    elsewhere.moments.assign(3, 2);
    Commit commit;
    commit.record.name = "tone";
    commit.record.method = prepared_.method->hf_config();
    commit.head.version = version;
    commit.elsewhere = std::move(elsewhere);
    return commit;
  }
  // What a run with three shards leaves at a version.
  void run_with_shards(int64_t version) {
    RunFolder folder(folder_.path());
    CheckpointWriter writer(folder.store());
    for (int shard = 1; shard <= 3; ++shard) {
      const auto store = open_rocksdb(shard_folder(folder_.path(), shard));
      ShardCheckpoint(*store).write("tone", part_of(state_at(version), size_t(shard - 1)));
    }
    writer.commit(commit_elsewhere(version));
  }
  // Goes on without shards.
  void run_without_shards(int64_t version) {
    RunFolder folder(folder_.path());
    Commit commit = commit_elsewhere(version);
    commit.elsewhere.reset();
    commit.state = state_at(version);
    CheckpointWriter(folder.store()).commit(commit);
  }
  static void expect_state(const ShardState& state, int64_t version) {
    const ShardState wanted = state_at(version);
    ASSERT_EQ(state.version, version);
    ASSERT_EQ(state.tensors.size(), 3u);
    for (size_t t = 0; t < 3; ++t) {
      EXPECT_EQ(state.parameters[t].values, wanted.parameters[t].values);
      EXPECT_EQ(state.moments[t][1].values, wanted.moments[t][1].values);
    }
  }
  bool has_shard(int shard) const {
    return std::filesystem::exists(shard_folder(folder_.path(), shard) + "/CURRENT");
  }

  TestFolder folder_;
  Backbone backbone_;
  PreparedJob prepared_;
};

TEST_F(RunFolderTest, AResumeReadsWhatShardsHold) {
  run_with_shards(7);
  RunFolder folder(folder_.path());
  for (int shard = 1; shard <= 3; ++shard) EXPECT_TRUE(has_shard(shard));
  for (int i = 0; i < 2; ++i) {
    const auto known = folder.known(prepared_, backbone_, "", "", false);
    ASSERT_TRUE(known);
    expect_state(known->state(), 7);
    EXPECT_EQ(known->head->version, 7);
  }
}

TEST_F(RunFolderTest, AShardThatNoHeadNamesIsRemovedByTheNextRun) {
  run_with_shards(7);
  run_without_shards(8);
  EXPECT_TRUE(has_shard(3));
  std::filesystem::create_directory(folder_.path() + "/store/shard-x");
  RunFolder folder(folder_.path());
  for (int shard = 1; shard <= 3; ++shard) EXPECT_FALSE(has_shard(shard));
  EXPECT_TRUE(std::filesystem::exists(folder_.path() + "/store/shard-x"));
  expect_state(folder.known(prepared_, backbone_, "", "", false)->state(), 8);
}

TEST_F(RunFolderTest, AShardThatStillDiesIsNamedByItsProcess) {
  run_with_shards(7);
  run_without_shards(8);
  const FolderLock dying(shard_folder(folder_.path(), 2));
  const Error error = error_of([&] { RunFolder folder(folder_.path()); });
  EXPECT_EQ(error.code(), ErrorCode::kBusy);
  EXPECT_THAT(error.what(), HasSubstr(fmt::format("shard-2: is in use by process {}", getpid())));
}

TEST_F(RunFolderTest, OthersReadAStateInShardsBesideTheRun) {
  run_with_shards(7);
  RunFolder folder(folder_.path());
  CheckpointWriter writer(folder.store());
  std::vector<std::unique_ptr<KvStore>> stores;
  for (int shard = 1; shard <= 3; ++shard)
    stores.push_back(open_rocksdb(shard_folder(folder_.path(), shard)));
  const auto other = open_run_folder(folder_.path());
  expect_state(other->checkpoints().state("tone"), 7);
  for (int64_t version = 8; version < 12; ++version) {
    for (size_t i = 0; i < 3; ++i) ShardCheckpoint(*stores[i]).write("tone", part_of(state_at(version), i));
    writer.commit(commit_elsewhere(version));
    for (const auto& store : stores) ShardCheckpoint(*store).release("tone", version);
  }
  const ShardState state = other->checkpoints().state("tone");  // at a HEAD from 7 to 11, and whole
  expect_state(state, state.version);
  expect_state(open_run_folder(folder_.path())->checkpoints().state("tone"), 11);
}

class SameMachineTest : public ::testing::Test {
 protected:
  SameMachineTest() {
    record_.name = "tone";
    record_.dtype = "bfloat16";
    record_.instruction_set = "avx512_bf16";
  }
  std::string refusal(const std::string& dtype, const std::string& instruction_set) const {
    return error_of([&] { require_same_machine(record_, backbone_, dtype, instruction_set); }).what();
  }

  JobRecord record_;
  Backbone backbone_;
};

TEST_F(SameMachineTest, WhatItBeganWithIsAccepted) {
  EXPECT_NO_THROW(require_same_machine(record_, backbone_, "bfloat16", "avx512_bf16"));
}

TEST_F(SameMachineTest, EverythingThatDiffersIsNamedWithTheWayToGoOn) {
  constexpr const char* kAnew =
      "; with anything else it must begin anew, under another --output or another name";
  EXPECT_EQ(refusal("float32", "amx"),
            std::string("job tone: --dtype is float32 and was bfloat16, the instruction set is amx and was "
                        "avx512_bf16 when the job began: from here on its bits would be others. It goes on "
                        "with --dtype bfloat16, COPPICE_MAX_ISA=avx512_bf16") +
                kAnew);
  EXPECT_EQ(refusal("bfloat16", "avx2"),
            std::string("job tone: the instruction set is avx2 and was avx512_bf16 when the job began: from "
                        "here on its bits would be others. It goes on with a processor that has avx512_bf16 "
                        "(and COPPICE_MAX_ISA not below it)") +
                kAnew);
  EXPECT_EQ(refusal("bfloat16", "x86_64_fma"),
            std::string("job tone: --device is ref and was cpu, the instruction set is x86_64_fma and was "
                        "avx512_bf16 when the job began: from here on its bits would be others. It goes on "
                        "with --device cpu") +
                kAnew);
}

class RecordedDtypeTest : public RunFolderTest {
 protected:
  void commit(const std::string& job, const std::string& dtype) {
    RunFolder folder(folder_.path());
    Commit commit;
    commit.record.name = job;
    commit.record.ordinal = folder.next_ordinal();
    commit.record.method = prepared_.method->hf_config();
    commit.record.dtype = dtype;
    commit.state = state_at(0);
    CheckpointWriter(folder.store()).commit(commit);
  }
  std::optional<std::string> recorded(const std::string& goes_on) const {
    return recorded_dtype(folder_.path(), [&](const JobRecord& record) { return record.name == goes_on; });
  }
};

TEST_F(RecordedDtypeTest, IsThatOfTheJobsThatGoOn) {
  EXPECT_EQ(recorded("tone"), std::nullopt);  // no run folder yet
  commit("tone", "bfloat16");
  EXPECT_EQ(recorded("tone"), "bfloat16");
  EXPECT_EQ(recorded("a new job"), "bfloat16");
  commit("pitch", "float32");
  EXPECT_EQ(recorded("tone"), "bfloat16");
  EXPECT_EQ(recorded("pitch"), "float32");
  EXPECT_EQ(recorded("a new job"), std::nullopt);
}

TEST_F(RunFolderTest, RunsWhileItsStoreIsHeldWhoeverOwnerNames) {
  EXPECT_FALSE(is_running(folder_.path()));
  {
    RunFolder folder(folder_.path());
    EXPECT_TRUE(is_running(folder_.path()));
    EXPECT_TRUE(is_running(folder_.path()));
  }
  // OWNER names this process, which lives.
  EXPECT_FALSE(is_running(folder_.path()));
  const FolderLock mine(folder_.path() + "/store");  // is_running has let go
}

TEST(RetryCommandTest, IsOneThatAShellTakes) {
  EXPECT_EQ(retry_command("/runs/one"), "`coppice run JOBS.yaml --output /runs/one --retry-failed`");
  EXPECT_EQ(retry_command("/my runs/one"), "`coppice run JOBS.yaml --output '/my runs/one' --retry-failed`");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_word(""), "''");
}

TEST_F(RunFolderTest, AFolderWithoutAStoreIsNone) {
  EXPECT_EQ(error_of([&] { open_run_folder(folder_.path()); }).code(), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace coppice
