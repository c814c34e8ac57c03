#include "coordinator/schedule/memory_model.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "common/base/error.h"

namespace coppice {
namespace {

double mebibytes(int64_t bytes) {
  return double(bytes) / (1 << 20);
}

constexpr int64_t kFloat = int64_t(sizeof(float));
constexpr int64_t kMebibyte = 1 << 20;
// From runs of the demo: code and libraries with what they keep and the holes that the allocator leaves, and
// what is kept of a job beside its tensors and examples (keys, record, batches, metrics that wait for their
// commit).
constexpr int64_t kProcessBytes = 128 * kMebibyte;
constexpr int64_t kJobBytes = 128 << 10;
// Shard: master, gradient, two moments, a commit on its way, a message of values. Stage: values, gradient, a
// message of each.
constexpr int64_t kShardCopies = 6, kStageCopies = 4, kStateCopies = 3;
// RocksDB, measured with states of 8 to 300 MiB: its buffers take what is written between two flushes (at
// most two of 64 MiB, and what they become), its caches and the batch that is being written the rest.
constexpr int64_t kStoreBytes = 24 * kMebibyte, kMostBufferBytes = 160 * kMebibyte;
constexpr int64_t kLogitRows = 256;

int64_t with_pool(int64_t bytes) {
  return bytes + bytes / 8;  // blocks of the host's pool are rounded up to an eighth
}

int64_t table_size(const BackboneConfig& config) {
  return config.vocabulary * config.hidden;
}

int64_t largest_rows(int64_t least, std::span<const JobMemory> jobs, bool checkpointing) {
  for (const JobMemory& job : jobs) {
    if (job.checkpointing == checkpointing) least = std::max(least, job.micro_batch_rows);
  }
  return least;
}

}  // namespace

int64_t data_bytes(const JobData& data) {
  constexpr int64_t kBlock = 16;  // of an allocation, beside what was asked for
  int64_t bytes = 0;
  for (const Dataset* set : {&data.train, &data.eval}) {
    bytes += int64_t(set->examples.capacity() * sizeof(Example) + set->examples.size() * sizeof(int64_t));
    for (const Example& example : set->examples) {
      bytes +=
          2 * kBlock + int64_t((example.tokens.capacity() + example.labels.capacity()) * sizeof(int32_t));
    }
  }
  return bytes;
}

int64_t MemoryModel::block_row_bytes(bool checkpointing) const {
  const int64_t hidden = config.hidden, attention = 2 * config.q_size() + 2 * config.kv_size();
  return kFloat * (checkpointing ? hidden : 2 * hidden + attention + config.heads + 2 * config.intermediate);
}

int64_t MemoryModel::working_row_bytes() const {
  const int64_t attention = 2 * config.q_size() + 2 * config.kv_size();
  return kFloat * (6 * config.hidden + 2 * attention + 4 * config.intermediate);
}

int64_t MemoryModel::packs_bytes(bool checkpointing) const {
  const int64_t between_stages = 2 * kFloat * config.hidden;  // rows that wait, in each direction
  // What is computed again is kept for one block at a time.
  const int64_t working = working_row_bytes() + (checkpointing ? block_row_bytes(false) : 0);
  int64_t bytes = 0;
  for (const LayerRange& stage : stages) {
    const int64_t kept = (stage.end - stage.first) * block_row_bytes(checkpointing) + between_stages;
    bytes += pack_rows * (packs * kept + working);
    if (stage.end == config.layers) bytes += kLogitRows * config.vocabulary * kFloat;
  }
  return with_pool(bytes);
}

int64_t MemoryModel::job_bytes(const JobMemory& job) const {
  const double shard_bytes = parameter_share * double(kFloat * job.method->trainable_parameters());
  int64_t stage_bytes = 0;  // its tensors that a stage here holds; a job runs on one pipeline
  for (const TensorSpec& tensor : job.method->tensors()) {
    const bool here = std::any_of(stages.begin(), stages.end(), [&](const LayerRange& stage) {
      return stage.holds(tensor.layer, config.layers);
    });
    if (here) stage_bytes += kFloat * element_count(tensor.shape);
  }
  return int64_t(double(kShardCopies) * shard_bytes) + with_pool(kStageCopies * stage_bytes) +
         (coordinator ? kJobBytes + job.data_bytes : 0);
}

int64_t MemoryModel::store_bytes(int64_t state_bytes) const {
  return stores * kStoreBytes + std::min(state_bytes, stores * kMostBufferBytes);
}

int64_t MemoryModel::total_bytes(std::span<const JobMemory> jobs) const {
  int64_t bytes = processes * kProcessBytes + weight_bytes, parameters = 0;
  for (const JobMemory& job : jobs) {
    bytes += job_bytes(job);
    parameters += job.method->trainable_parameters();
  }
  // A pack is of one kind, and either kind may fill all of them.
  int64_t packs_most = 0;
  for (const bool checkpointing : {false, true}) {
    const bool any = std::any_of(jobs.begin(), jobs.end(),
                                 [&](const JobMemory& job) { return job.checkpointing == checkpointing; });
    if (!any) continue;
    MemoryModel model = *this;
    model.pack_rows = largest_rows(pack_rows, jobs, checkpointing);
    packs_most = std::max(packs_most, model.packs_bytes(checkpointing));
  }
  const double state_bytes = parameter_share * double(kStateCopies * kFloat * parameters);
  return bytes + packs_most + store_bytes(int64_t(state_bytes));
}

FitAnswer MemoryModel::fit(const std::string& job, const JobMemory& wanted,
                           std::span<const JobMemory> others) const {
  std::vector<JobMemory> all(others.begin(), others.end());
  all.push_back(wanted);
  const int64_t needed = total_bytes(all);
  if (needed <= limit_bytes) return {};
  const int64_t alone = total_bytes(std::span(&wanted, 1));
  const bool never = alone > limit_bytes;
  MemoryModel own = *this;
  own.pack_rows = largest_rows(pack_rows, std::span(&wanted, 1), wanted.checkpointing);
  std::string numbers = fmt::format(
      "{:.0f} MiB for weights, {:.0f} MiB for packs of {} rows and {:.0f} MiB for its adapter and data",
      mebibytes(weight_bytes), mebibytes(own.packs_bytes(wanted.checkpointing)), own.pack_rows,
      mebibytes(job_bytes(wanted)));
  const std::string where = host.empty() ? "" : " on host " + host;
  const std::string there = fmt::format("{:.0f} MiB are there{}", mebibytes(limit_bytes), where);
  if (never) {
    return {
        Fit::kNever,
        fmt::format("job {} does not fit: it needs {:.0f} MiB ({} among them), {}; fewer rows in a pack "
                    "(--pack-rows, train.max_tokens_per_micro_batch) or train.gradient_checkpointing need "
                    "less",
                    job, mebibytes(alone), numbers, there)};
  }
  return {Fit::kLater,
          fmt::format("job {} does not fit beside {} other jobs: {:.0f} MiB are needed with them, "
                      "{:.0f} MiB for it alone, {}",
                      job, others.size(), mebibytes(needed), mebibytes(alone), there)};
}

FitAnswer fit_on_hosts(std::span<const MemoryModel> hosts, const std::string& job, const JobMemory& wanted,
                       std::span<const JobMemory> others) {
  FitAnswer worst;
  for (const MemoryModel& host : hosts) {
    FitAnswer answer = host.fit(job, wanted, others);
    if (int(answer.fit) > int(worst.fit)) worst = std::move(answer);
  }
  return worst;
}

int64_t MemoryModel::estimate_weight_bytes(const BackboneConfig& config, DType compute) {
  return estimate_weight_bytes(config, compute, {0, config.layers});
}

int64_t MemoryModel::estimate_weight_bytes(const BackboneConfig& config, DType compute,
                                           const LayerRange& stage) {
  constexpr int64_t kDirections = 2;
  const int64_t block =
      config.hidden * (2 * config.q_size() + 2 * config.kv_size() + 3 * config.intermediate);
  int64_t packed = (stage.end - stage.first) * block, bytes = 0;
  if (stage.end == config.layers) packed += table_size(config);  // the head
  if (stage.first == 0) bytes += table_size(config) * kFloat;    // the embedding
  return bytes + kDirections * int64_t(dtype_size(compute)) * packed;
}

namespace {

// The value behind a key of a file of "key value" lines; 0 where there is none.
int64_t value_in(const std::string& path, std::string_view wanted) {
  std::ifstream file(path);
  int64_t value = 0;
  for (std::string key; file >> key >> value;) {
    if (key == wanted) return value;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

int64_t number_in(const std::string& path) {
  int64_t value = 0;
  std::ifstream(path) >> value;  // "max" reads as 0
  return value;
}

// What files of a control group are called in the two versions of the interface.
struct ControlGroupFiles {
  const char *root, *limit, *used, *active_file, *inactive_file;
};
constexpr ControlGroupFiles kVersion1{"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                      "memory.usage_in_bytes", "total_active_file", "total_inactive_file"};
constexpr ControlGroupFiles kVersion2{"/sys/fs/cgroup", "memory.max", "memory.current", "active_file",
                                      "inactive_file"};

// The least of what a group and those above it leave. Pages of files that a group holds are given back when
// they are needed: they do not count as used.
int64_t left_in(const ControlGroupFiles& files, std::string group) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (;;) {
    const std::string folder = files.root + group + "/";
    if (const int64_t limit = number_in(folder + files.limit); limit > 0) {
      const std::string stat = folder + "memory.stat";
      const int64_t pages = value_in(stat, files.active_file) + value_in(stat, files.inactive_file);
      least = std::min(least, std::max<int64_t>(0, limit - number_in(folder + files.used) + pages));
    }
    if (group.empty()) return least;
    group.resize(group.rfind('/'));
  }
}

}  // namespace

// /proc/self/cgroup has lines "id:controllers:/path"; id 0 is version 2.
int64_t available_memory_bytes() {
  int64_t available = value_in("/proc/meminfo", "MemAvailable:") * 1024;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos || line[second + 1] != '/') continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (controllers == ",,") available = std::min(available, left_in(kVersion2, group));
    if (controllers.find(",memory,") != std::string::npos)
      available = std::min(available, left_in(kVersion1, group));
  }
  return available;
}

}  // namespace coppice
