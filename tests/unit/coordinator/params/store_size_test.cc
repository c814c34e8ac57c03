// The real store on a real file system stays below four times what is live in it, also inside a commit.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <set>
#include <thread>

#include "coordinator/params/shard_checkpoint.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/coordinator/params/states.h"

namespace coppice {
namespace {

// In memory where the machine has such a file system: sizes are the same, and a thousand syncs of a disk
// would take a minute.
class Folder {
 public:
  std::string store() const { return folder_.file("store"); }

  // What the files hold or take, whichever is more. Two looks must see the same files: else one that went
  // while we looked would be counted beside the one that took its place.
  size_t bytes() const {
    Sizes sizes = look();
    for (Sizes next = look(); next.names != sizes.names; next = look()) sizes = std::move(next);
    return std::max(sizes.held, sizes.taken);
  }

 private:
  struct Sizes {
    std::set<std::string> names;
    size_t held = 0, taken = 0;
  };
  Sizes look() const {
    Sizes sizes;
    std::error_code gone;
    for (std::filesystem::directory_iterator it(store(), gone), end; it != end; it.increment(gone)) {
      struct stat status {};
      if (::stat(it->path().c_str(), &status) != 0) continue;
      sizes.names.insert(it->path().filename().string());
      sizes.held += size_t(status.st_size);
      sizes.taken += size_t(status.st_blocks) * 512;
    }
    return sizes;
  }

  const TestFolder folder_{
      std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path()};
};

struct Measured {
  size_t live = 0, most_bytes = 0;
  double most_ratio = 0, milliseconds = 0,
         cpu_milliseconds = 0;  // a commit; its CPU without RocksDB's threads
};

double thread_cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + double(now.tv_nsec) * 1e-9;
}

// Looks at the store's size all the time, also inside a commit.
class Watcher {
 public:
  explicit Watcher(const Folder& folder)
      : thread_([this, &folder] {
          while (!stop_) {
            const size_t bytes = folder.bytes();
            if (bytes > most_) most_ = bytes;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          }
        }) {}
  ~Watcher() {
    stop_ = true;
    thread_.join();
  }
  size_t take_most() { return most_.exchange(0); }  // since the last call

 private:
  std::atomic<bool> stop_ = false;
  std::atomic<size_t> most_ = 0;
  std::thread thread_;
};

// Commits of jobs in turn, `updates` in all; jobs[i] has tensors of the shapes jobs[i].
Measured commit_many(const std::vector<std::vector<Shape>>& jobs, int updates) {
  const Folder folder;
  const auto store = open_rocksdb(folder.store());
  CheckpointWriter writer(*store);
  CheckpointReader reader(*store);
  std::vector<Commit> commits;
  for (size_t i = 0; i < jobs.size(); ++i)
    commits.push_back(make_commit("job" + std::to_string(i), 0, jobs[i]));
  for (const Commit& commit : commits) writer.commit(commit);
  Measured measured;
  measured.live = reader.live_bytes();
  Watcher watcher(folder);
  for (int i = 0; i < updates; ++i) {
    Commit& commit = commits[size_t(i) % jobs.size()];
    const int64_t version = ++commit.head.version;
    commit.state->version = version;
    commit.metrics = make_commit(commit.record.name, version, {}).metrics;
    const auto began = std::chrono::steady_clock::now();
    const double cpu = thread_cpu_seconds();
    writer.commit(commit);
    measured.cpu_milliseconds += (thread_cpu_seconds() - cpu) * 1e3 / updates;
    measured.milliseconds +=
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count() / updates;
    if (i % 25 == 0) measured.live = reader.live_bytes();
    const size_t bytes = std::max(watcher.take_most(), folder.bytes());
    measured.most_bytes = std::max(measured.most_bytes, bytes);
    measured.most_ratio = std::max(measured.most_ratio, double(bytes) / double(measured.live));
  }
  std::printf(
      "  live %zu KiB, store at most %zu KiB (%.2f times), now %zu; a commit %.1f ms, %.1f ms of CPU\n",
      measured.live >> 10, measured.most_bytes >> 10, measured.most_ratio, folder.bytes() >> 10,
      measured.milliseconds, measured.cpu_milliseconds);
  return measured;
}

// LoRA of some layers: A [r, in] and B [out, r] with AdamW's moments; about bytes in all.
std::vector<Shape> lora(int64_t bytes) {
  const int64_t pairs = 8, rank = bytes / (3 * 4 * 2 * pairs * 128);
  std::vector<Shape> shapes;
  for (int64_t i = 0; i < pairs; ++i) {
    shapes.push_back({rank, 128});
    shapes.push_back({128, rank});
  }
  return shapes;
}

TEST(StoreSizeTest, AStateOfOneMegabyteStaysBelowFourTimesThroughAThousandUpdates) {
  const Measured measured = commit_many({lora(1 << 20)}, 1000);
  EXPECT_GT(measured.live, 900u << 10);
  EXPECT_LT(measured.most_ratio, 4);
}

// Of many small values, none a blob: (IA)3 vectors.
TEST(StoreSizeTest, AStateOfSmallTensorsStaysBelowFourTimes) {
  const Measured measured = commit_many({std::vector<Shape>(200, Shape{128})}, 200);
  EXPECT_GT(measured.live, 256u << 10);
  EXPECT_LT(measured.most_ratio, 4);
}

TEST(StoreSizeTest, TenJobsStayBelowFourTimes) {
  std::vector<std::vector<Shape>> jobs;
  for (int i = 0; i < 10; ++i) jobs.push_back(lora((1 + i) * (100 << 10)));
  const Measured measured = commit_many(jobs, 300);
  EXPECT_LT(measured.most_ratio, 4);
}

// Below 256 KiB the fixed cost of the store shows; it is bounded.
TEST(StoreSizeTest, AStateOfAHundredKilobytesTakesLessThanAMegabyte) {
  const Measured measured = commit_many({lora(100 << 10)}, 300);
  EXPECT_LT(measured.most_bytes, 1u << 20);
}

// A state above the store's buffers: it is flushed while it is written.
TEST(StoreSizeTest, AStateAboveTheBuffersOfTheStoreStaysBelowFourTimes) {
  const Measured measured = commit_many({lora(70 << 20)}, 3);
  EXPECT_LT(measured.most_ratio, 4);
}

// A shard's store: each version beside the one before, which goes when HEAD has moved.
TEST(StoreSizeTest, AShardStaysBelowFourTimes) {
  const Folder folder;
  const auto store = open_rocksdb(folder.store());
  ShardCheckpoint checkpoint(*store);
  ShardState state = make_state("job", 0, lora(1 << 20));
  size_t live = 0;
  for (size_t i = 0; i < state.tensors.size(); ++i)
    live += 3 * state.parameters[i].values.size() * sizeof(float);
  checkpoint.write("job", state);
  Watcher watcher(folder);
  size_t most = 0;
  for (state.version = 1; state.version <= 300; ++state.version) {
    checkpoint.write("job", state);
    checkpoint.release("job", state.version);
    most = std::max({most, watcher.take_most(), folder.bytes()});
  }
  std::printf("  live %zu KiB, store at most %zu KiB (%.2f times)\n", live >> 10, most >> 10,
              double(most) / double(live));
  EXPECT_LT(double(most) / double(live), 4);
}

}  // namespace
}  // namespace coppice
