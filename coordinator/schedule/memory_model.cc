#include "coordinator/schedule/memory_model.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

#include "common/base/error.h"

namespace coppice {
namespace {

double mebibytes(int64_t bytes) {
  return double(bytes) / (1 << 20);
}

}  // namespace

int64_t MemoryModel::row_bytes(bool checkpointing) const {
  const int64_t hidden = config.hidden, attention = 2 * config.q_size() + 2 * config.kv_size();
  const int64_t kept_by_block =
      checkpointing ? hidden : 2 * hidden + attention + config.heads + 2 * config.intermediate;
  const int64_t working = 6 * hidden + 2 * attention + 4 * config.intermediate;
  return int64_t(sizeof(float)) * (config.layers * kept_by_block + working);
}

int64_t MemoryModel::packs_bytes(bool checkpointing) const {
  constexpr int64_t kLogitRows = 256;
  return packs * pack_rows * row_bytes(checkpointing) +
         kLogitRows * config.vocabulary * int64_t(sizeof(float));
}

int64_t MemoryModel::job_bytes(const MethodConfig& method) {
  constexpr int64_t kCopies =
      7;  // shard: master, gradient, two moments; stage: values, gradient; a commit on its way
  return kCopies * int64_t(sizeof(float)) * method.trainable_parameters();
}

int64_t MemoryModel::estimate_weight_bytes(const BackboneConfig& config, DType compute) {
  const int64_t block =
      config.hidden * (2 * config.q_size() + 2 * config.kv_size() + 3 * config.intermediate);
  const int64_t table = config.vocabulary * config.hidden;
  constexpr int64_t kDirections = 2;
  return kDirections * int64_t(dtype_size(compute)) * (config.layers * block + table) +
         table * int64_t(sizeof(float));
}

void MemoryModel::admit(const std::string& job, const MethodConfig& method, int64_t largest_micro_batch_rows,
                        bool checkpointing, int64_t others_bytes) const {
  MemoryModel own = *this;
  own.pack_rows = std::max(pack_rows, largest_micro_batch_rows);
  const int64_t needed = weight_bytes + own.packs_bytes(checkpointing) + job_bytes(method) + others_bytes;
  if (needed <= limit_bytes) return;
  throw Error(
      ErrorCode::kExhausted,
      fmt::format(
          "job {} does not fit: {:.0f} MiB for weights, {:.0f} MiB for packs of {} rows, {:.0f} MiB for its "
          "adapter and {:.0f} MiB for those of other jobs are needed, {:.0f} MiB are there; fewer rows in a "
          "pack "
          "(--pack-rows, train.max_tokens_per_micro_batch) or train.gradient_checkpointing need less",
          job, mebibytes(weight_bytes), mebibytes(own.packs_bytes(checkpointing)), own.pack_rows,
          mebibytes(job_bytes(method)), mebibytes(others_bytes), mebibytes(limit_bytes)));
}

namespace {

// The value behind a key of a file of "key value" lines; 0 where there is none.
int64_t value_in(const char* path, std::string_view wanted) {
  std::ifstream file(path);
  int64_t value = 0;
  for (std::string key; file >> key >> value;) {
    if (key == wanted) return value;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

}  // namespace

// Pages of files that a control group holds are given back when they are needed: they do not count as used.
int64_t available_memory_bytes() {
  const int64_t host = value_in("/proc/meminfo", "MemAvailable:") * 1024;
  int64_t limit = 0, used = 0;
  std::ifstream("/sys/fs/cgroup/memory.max") >> limit;  // "max" reads as 0
  std::ifstream("/sys/fs/cgroup/memory.current") >> used;
  if (limit <= 0) return host;
  const char* const stat = "/sys/fs/cgroup/memory.stat";
  used -= value_in(stat, "inactive_file") + value_in(stat, "active_file");
  return std::min(host, std::max<int64_t>(0, limit - used));
}

}  // namespace coppice
