// What is committed survives: a process that dies at each of its writes in turn, one that loses unsynced
// writes with the power, and a real one killed at random moments.

#include <gmock/gmock.h>

#include <chrono>
#include <random>
#include <thread>

#include "tests/unit/common/io/testing.h"
#include "tests/unit/common/store/child_process.h"
#include "tests/unit/common/store/crashing_store.h"
#include "tests/unit/coordinator/params/states.h"

namespace coppice {
namespace {

// Three tensors, one of them larger than a batch of chunks: several writes a commit.
const std::vector<Shape> kShapes = {{(1 << 20) / 4 + 5}, {6}, {2, 2}};
constexpr int64_t kVersions = 3;

// Commits versions from first on until the store dies; the newest that was acknowledged.
int64_t commit_until_crash(CrashingStore& store, int64_t first) {
  int64_t acknowledged = first - 1;
  try {
    CheckpointWriter writer(store);
    for (int64_t version = first; version <= kVersions; ++version) {
      Commit commit = make_commit("job", version, kShapes);
      commit.state->moments.assign(kShapes.size(), {});
      writer.commit(commit);
      acknowledged = version;
    }
  } catch (const Crash&) {
  }
  return acknowledged;
}

// The state of the job in the store, compared value by value; -1 where there is none.
int64_t version_in(KvStore& disk) {
  const CheckpointReader reader(disk);
  const auto head = reader.head("job");
  EXPECT_EQ(head.has_value(), reader.record("job").has_value());
  if (!head) return -1;
  const ShardState state = reader.state("job");
  EXPECT_EQ(state.version, head->version);
  for (size_t t = 0; t < kShapes.size(); ++t) {
    EXPECT_TRUE(state.parameters[t].values == state_tensor("job", state.version, t, 0, kShapes[t]).values);
  }
  // Metrics are those up to HEAD.
  EXPECT_EQ(int64_t(reader.metrics("job").size()), state.version);
  return state.version;
}

size_t chunks_in(const KvStore& disk) {
  size_t count = 0;
  disk.scan("state/", [&](std::string_view, std::string_view) {
    ++count;
    return true;
  });
  return count;
}

TEST(CrashTest, AStopAtAnyWriteLeavesAWholeState) {
  int writes = 0;
  for (;; ++writes) {
    size_t unsynced = 0;
    bool ended = false;
    for (size_t lost = 0; lost <= unsynced; ++lost) {
      const auto disk = make_memory_store();
      CrashingStore store(*disk, writes);
      const int64_t acknowledged = commit_until_crash(store, 0);
      unsynced = store.unsynced();
      ended = acknowledged == kVersions;
      store.lose_power(lost);
      const int64_t found = version_in(*disk);
      EXPECT_EQ(found, acknowledged) << "after " << writes << " writes, " << lost << " lost";
      // The next process goes on from there, and what the crash left is gone.
      CrashingStore next(*disk, 1000);
      EXPECT_EQ(commit_until_crash(next, found + 1), kVersions);
      EXPECT_EQ(version_in(*disk), kVersions);
      EXPECT_EQ(chunks_in(*disk), kShapes.size());
    }
    if (ended) break;
  }
  EXPECT_EQ(writes, 1 + 4 * 3);  // the format, and for each of four commits two batches of chunks and HEAD
}

TEST(CrashTest, AProcessKilledAtRandomMomentsLosesNothingItReported) {
  const TestFolder folder;
  const std::string store = folder.file("store");
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  int64_t reported = -1;
  for (int round = 0; round < 10; ++round) {
    ChildProcess child({CHECKPOINT_CHILD, store});
    ASSERT_EQ(child.line(), fmt::format("begins after {}", reported < 0 ? -1 : reported))
        << "what a reader found must be what the next process finds";
    // At least one commit, then any moment of the next ones.
    auto line = child.line();
    const auto pause = std::chrono::microseconds(random() % 30000);
    std::this_thread::sleep_for(pause);
    child.end(SIGKILL);
    for (; line; line = child.line()) reported = std::stoll(*line);
    const auto reader = open_rocksdb_readonly(store);
    const int64_t found = expect_whole(*reader, "tone", {{64, 48}, {48}, {5000}});
    EXPECT_GE(found, reported);
    EXPECT_LE(found, reported + 1);
    EXPECT_EQ(int64_t(CheckpointReader(*reader).metrics("tone").size()), found);
    reported = found;
  }
  EXPECT_GE(reported, 9);
}

TEST(CrashTest, AReaderBesideACommittingProcessFindsWholeStates) {
  const TestFolder folder;
  const std::string store = folder.file("store");
  ChildProcess child({CHECKPOINT_CHILD, store});
  ASSERT_TRUE(child.line());
  ASSERT_TRUE(child.line());
  int64_t before = 0;
  for (int i = 0; i < 15; ++i) {
    const auto reader = open_rocksdb_readonly(store);
    const int64_t found = expect_whole(*reader, "tone", {{64, 48}, {48}, {5000}});
    EXPECT_GE(found, before);
    before = found;
  }
  EXPECT_EQ(child.end(SIGKILL), 128 + SIGKILL);
}

}  // namespace
}  // namespace coppice
