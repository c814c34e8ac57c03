#include "coordinator/schedule/memory_model.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <set>
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
// From runs of one small job: code and libraries with what they keep, by a rank of MPI what its library
// takes; and what is kept of a job beside its tensors and examples (keys, record, batches, metrics that wait
// for their commit).
constexpr int64_t kProcessBytes = 24 * kMebibyte, kMpiBytes = 11 * kMebibyte;
constexpr int64_t kJobBytes = 128 << 10;
constexpr int64_t kShardCopies = 3, kStateCopies = 3;  // master, two moments
constexpr int64_t kMostCommits = 16;                   // of the engine: at once
// RocksDB, measured with states of 7 to 300 MiB: its buffers take what is written until the next flush, which
// is half of what is live and the commit in which that is reached (at most two of 16 MiB, and what they
// become); the rest are its caches.
constexpr int64_t kStoreBytes = 8 * kMebibyte, kMostBufferBytes = 48 * kMebibyte;
constexpr int64_t kLogitRows = 256;
constexpr int64_t kThreadBytes = 800 << 10;  // what it turns of a weight, or prepares of attention
constexpr int64_t kLeastPackRows = 128;      // of the engine: a pack has more where the rows are there

// The range of a backend's buffers has holes: measured 2 to 5 % above what is in use at most.
int64_t with_holes(int64_t bytes) {
  return bytes + bytes / 25;
}

int64_t table_size(const BackboneConfig& config) {
  return config.vocabulary * config.hidden;
}

std::vector<JobMemory> of_kind(std::span<const JobMemory> jobs, bool checkpointing) {
  std::vector<JobMemory> some;
  std::copy_if(jobs.begin(), jobs.end(), std::back_inserter(some),
               [&](const JobMemory& job) { return job.checkpointing == checkpointing; });
  return some;
}

// Whether this holds for some job's method and some module in this slot.
bool any_at(const BackboneConfig& config, std::span<const JobMemory> jobs, Slot slot,
            const std::function<bool(const MethodConfig&, const Module&)>& holds) {
  const std::vector<Module> modules = backbone_modules(config);
  return std::any_of(jobs.begin(), jobs.end(), [&](const JobMemory& job) {
    return std::any_of(modules.begin(), modules.end(), [&](const Module& module) {
      return module.slot == slot && holds(*job.method, module);
    });
  });
}

// Whether a method changes the gradient of a module's output.
bool changes_dy(const MethodConfig& method, const Module& module) {
  return method.method().changes_dy() && method.method().wants_output(method, module);
}

// Whether the gradient of a module's input may be more than its products.
bool changes_dx(const MethodConfig& method, const Module& module) {
  return method.method().wants_input(method, module) ||
         (method.method().wants_output(method, module) &&
          method.method().changes_output(method, module, true));
}

// Whether a method's backward takes rows as wide as a module's input.
bool takes_rows(const MethodConfig& method, const Module& module) {
  return method.method().scratch_columns(method, module) > 0;
}

}  // namespace

DataParts parts_of(const JobData& data) {
  const Dataset &train = *data.train, &eval = *data.eval;
  const int64_t order_bytes = int64_t((train.examples.size() + eval.examples.size()) * sizeof(int64_t));
  DataParts parts = {
      DataPart{0, order_bytes}, {train.identity, train.bytes()}, {eval.identity, eval.bytes()}};
  if (data.train == data.eval) parts[2] = {};
  return parts;
}

int64_t data_bytes(const DataParts& parts) {
  int64_t bytes = 0;
  for (const DataPart& part : parts) bytes += part.bytes;
  return bytes;
}

// Rows of packs on their way through a pipeline.
struct MemoryModel::Flight {
  int64_t largest = 0;  // of a pack
  int64_t all = 0;
};

// No more than the jobs have ready at once. Where several packs are wanted, each gets its share.
MemoryModel::Flight MemoryModel::flight(std::span<const JobMemory> jobs) const {
  int64_t ready = 0, least = std::numeric_limits<int64_t>::max(), most = 0;
  for (const JobMemory& job : jobs) {
    ready += std::max(job.step_rows, job.evaluation_rows);
    least = std::min(least, std::max<int64_t>(1, job.micro_batch_rows));
    most = std::max(most, job.micro_batch_rows);
  }
  if (ready == 0) return {};
  int64_t largest = pack_rows;
  if (packs > 1) largest = std::min(pack_rows, std::max(kLeastPackRows, (ready + packs - 1) / packs));
  if (least == most) largest -= largest % most;  // micro-batches are not cut
  largest = std::min(ready, std::max(largest, most));
  return {largest, std::min(ready, packs * largest)};
}

// By a block for one row: x, mid and the attention's sums; in the dtype of products q, k, v, the attention's
// output, gate and up; with checkpointing x alone. A norm of heads needs q and k as they were before it.
int64_t MemoryModel::block_row_bytes(bool checkpointing) const {
  if (checkpointing) return kFloat * config.hidden;
  const int64_t norms = 2 + config.heads + (config.qk_norm ? config.heads + config.kv_heads : 0);
  const int64_t q_and_k = config.q_size() + config.kv_size();
  const int64_t rounded = config.q_size() + config.kv_size() + 2 * config.intermediate;
  return kFloat * (2 * config.hidden + norms + (config.qk_norm ? q_and_k : 0)) +
         int64_t(dtype_size(compute)) * (rounded + (config.qk_norm ? 0 : q_and_k));
}

int64_t MemoryModel::kept_row_bytes(const JobMemory& job, const LayerRange& stage) const {
  int64_t bytes = 0;
  for (int64_t layer = std::max(stage.first, job.method->lowest_layer()); layer < stage.end; ++layer) {
    bytes += block_row_bytes(job.checkpointing);
    if (!job.checkpointing) bytes += kFloat * job.method->kept_columns(layer);
  }
  return bytes;
}

// The rows may be those of the jobs that keep most.
int64_t MemoryModel::kept_bytes(std::span<const JobMemory> jobs, const LayerRange& stage,
                                int64_t rows) const {
  std::vector<std::pair<int64_t, int64_t>> kept;  // bytes of a row, rows
  for (const JobMemory& job : jobs) kept.emplace_back(kept_row_bytes(job, stage), job.step_rows);
  std::sort(kept.begin(), kept.end(), std::greater<>());
  int64_t bytes = 0;
  for (const auto& [row_bytes, job_rows] : kept) {
    const int64_t some = std::min(rows, job_rows);
    bytes += some * row_bytes;
    rows -= some;
  }
  return bytes;
}

// Beside what is kept, in the topmost block here, or with the logits of a piece. A forward needs less than
// the backward. What products read is in their dtype: the inputs of attention and MLP, which a backward
// computes again, the gated product and its gradient, and that of attention's output. The MLP's backward: dy,
// its input, that input's gradient, then the product and its gradient with what a method takes at down, then
// the latter alone; in bfloat16 either beside gradients that a method changes in float32, down's of the
// product, gate's and up's.
// Attention's: dy, its input and that input's gradient, those of the output, q, k and v, when gate, up and
// mid are needed no more.
int64_t MemoryModel::working_bytes(const LayerRange& stage, int64_t rows,
                                   std::span<const JobMemory> jobs) const {
  const int64_t hidden = config.hidden, inner = config.intermediate, q = config.q_size(),
                kv = config.kv_size();
  const int64_t rounded = int64_t(dtype_size(compute));
  const bool bf16 = compute == DType::kBF16;
  const bool exact_product = bf16 && any_at(config, jobs, Slot::kDown, changes_dx);
  const bool exact_gradients =
      bf16 && (any_at(config, jobs, Slot::kGate, changes_dy) || any_at(config, jobs, Slot::kUp, changes_dy));
  const int64_t of_down = (exact_product ? 1 : 0) + (any_at(config, jobs, Slot::kDown, takes_rows) ? 1 : 0);
  const int64_t mlp =
      kFloat * 2 * hidden + rounded * (hidden + inner) +
      std::max(rounded * inner + of_down * kFloat * inner, exact_gradients ? 2 * kFloat * inner : 0);
  const int64_t attention = kFloat * (hidden + q + 2 * kv) + rounded * (q + hidden - 2 * inner);
  int64_t row_bytes = std::max(mlp, attention);
  if (jobs.front().checkpointing)
    row_bytes += block_row_bytes(false);  // of one block at a time, computed again
  int64_t bytes = rows * row_bytes;
  if (stage.end == config.layers) {
    const int64_t piece = std::min(kLogitRows, rows) * (config.vocabulary + 4 * hidden);
    // The gradients of the logits are multiplied where they stand, or else packed.
    const bool packed = bf16 && (config.vocabulary % 2 != 0 || any_at(config, jobs, Slot::kHead, changes_dy));
    const int64_t packed_bytes = packed ? rounded * std::min(kLogitRows, rows) * config.vocabulary : 0;
    bytes = std::max(bytes, kFloat * (2 * hidden * rows + piece) + packed_bytes);
  }
  const int64_t positions = 3 + config.head_dim;  // token, its place, cosines and sines
  return bytes + kFloat * positions * rows + threads * kThreadBytes;
}

// How many packs a stage keeps something of. The last one's backward follows the forward. In one process the
// stages take their turns, and each forward of a stage waits for the backward of the pack that is as many
// before as stages follow; ranks of their own may run ahead with all.
int64_t MemoryModel::packs_at(const LayerRange& stage) const {
  if (stage.end == config.layers) return 1;
  if (!in_turn) return packs;
  std::set<int64_t> after;
  for (const LayerRange& other : stages)
    if (other.first > stage.first) after.insert(other.first);
  return std::min(packs, 1 + int64_t(after.size()));
}

int64_t MemoryModel::packs_of_kind_bytes(std::span<const JobMemory> jobs) const {
  if (jobs.empty()) return 0;
  const Flight rows = flight(jobs);
  int64_t kept = 0, working = 0;
  for (const LayerRange& stage : stages) {
    const int64_t here = std::min(rows.all, packs_at(stage) * rows.largest);
    kept += kept_bytes(jobs, stage, here);
    const int64_t works = working_bytes(stage, rows.largest, jobs);
    working = in_turn ? std::max(working, works) : working + works;
    // Of the others, rows that wait for their turn.
    if (stages.size() > 1) kept += std::min(rows.all - here, rows.largest) * kFloat * config.hidden;
  }
  return with_holes(kept + working);
}

int64_t MemoryModel::packs_bytes(std::span<const JobMemory> jobs) const {
  return std::max(packs_of_kind_bytes(of_kind(jobs, false)), packs_of_kind_bytes(of_kind(jobs, true)));
}

int64_t MemoryModel::largest_pack_rows(std::span<const JobMemory> jobs) const {
  return std::max(flight(of_kind(jobs, false)).largest, flight(of_kind(jobs, true)).largest);
}

// One copy of a job's tensors in the parameter server here, and on the stages here: a job runs on one
// pipeline.
int64_t MemoryModel::shard_bytes(const JobMemory& job) const {
  return int64_t(parameter_share * double(kFloat * job.method->trainable_parameters()));
}
int64_t MemoryModel::stage_bytes(const JobMemory& job) const {
  int64_t bytes = 0;
  for (const TensorSpec& tensor : job.method->tensors()) {
    const bool here = std::any_of(stages.begin(), stages.end(), [&](const LayerRange& stage) {
      return stage.holds(tensor.layer, config.layers);
    });
    if (here) bytes += kFloat * element_count(tensor.shape);
  }
  return bytes;
}

int64_t MemoryModel::job_bytes(const JobMemory& job) const {
  return kShardCopies * shard_bytes(job) + stage_bytes(job) +
         (coordinator ? kJobBytes + data_bytes(job.data) : 0);
}

int64_t MemoryModel::jobs_bytes(std::span<const JobMemory> jobs) const {
  int64_t bytes = 0;
  std::set<int64_t> counted;  // datasets
  for (const JobMemory& job : jobs) {
    bytes += job_bytes(job);
    if (!coordinator) continue;
    for (const DataPart& part : job.data) {
      if (part.dataset != 0 && !counted.insert(part.dataset).second) bytes -= part.bytes;
    }
  }
  return bytes;
}

// What is there of adapters for a while, and of stores. Gradients are on a stage from the first backward of a
// step to its last: those of the jobs that packs in flight may hold, and of all whose steps take several
// packs. Then they are with the shards until the update, beside one commit's copy of a state; or, where jobs
// end together, so do their commits, each with its copy.
void MemoryModel::add_passing(std::span<const JobMemory> jobs, MemoryParts& parts) const {
  if (jobs.empty()) {
    parts.stores = store_bytes(0);
    return;
  }
  std::vector<int64_t> of_shards, of_stages;
  int64_t least = std::numeric_limits<int64_t>::max(), in_parts = 0;
  for (const JobMemory& job : jobs) {
    of_shards.push_back(shard_bytes(job));
    of_stages.push_back(stage_bytes(job));
    least = std::min(least, std::max<int64_t>(1, job.micro_batch_rows));
    in_parts += job.step_rows > job.micro_batch_rows ? 1 : 0;
  }
  const auto largest = [](std::vector<int64_t>& sizes, int64_t count) {
    std::sort(sizes.begin(), sizes.end(), std::greater<>());
    const auto end = sizes.begin() + std::min(count, int64_t(sizes.size()));
    return std::accumulate(sizes.begin(), end, int64_t(0));
  };
  const int64_t in_a_pack = (largest_pack_rows(jobs) + least - 1) / least;
  const int64_t slots = largest(of_stages, std::max(packs * in_a_pack, in_parts));
  const int64_t one = kStateCopies * largest(of_shards, 1),
                all = kStateCopies * largest(of_shards, int64_t(jobs.size()));
  const int64_t commits = kStateCopies * largest(of_shards, std::min(in_a_pack, kMostCommits));
  parts.gradients = slots + std::max(largest(of_shards, in_a_pack) + one, commits);
  parts.stores = store_bytes(all / 2 + one / 2);
}

int64_t MemoryModel::store_bytes(int64_t written_bytes) const {
  return stores * kStoreBytes + std::min(written_bytes, stores * kMostBufferBytes);
}

MemoryParts MemoryModel::parts(std::span<const JobMemory> jobs) const {
  MemoryParts parts;
  parts.program = processes * (kProcessBytes + (in_turn ? 0 : kMpiBytes));
  parts.weights = weight_bytes;
  parts.packs = packs_bytes(jobs);
  parts.jobs = jobs_bytes(jobs);
  add_passing(jobs, parts);
  return parts;
}

FitAnswer MemoryModel::fit(const std::string& job, const JobMemory& wanted,
                           std::span<const JobMemory> others) const {
  std::vector<JobMemory> all(others.begin(), others.end());
  all.push_back(wanted);
  const int64_t needed = total_bytes(all);
  if (needed <= limit_bytes) return {};
  const int64_t alone = total_bytes(std::span(&wanted, 1));
  const bool never = alone > limit_bytes;
  const std::span<const JobMemory> own(&wanted, 1);
  const std::string numbers = fmt::format(
      "{:.0f} MiB for weights, {:.0f} MiB for packs of {} rows and {:.0f} MiB for its adapter and data",
      mebibytes(weight_bytes), mebibytes(packs_bytes(own)), largest_pack_rows(own),
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

int64_t frozen_weight_bytes(const Backend& device, const BackboneConfig& config, const LayerRange& stage,
                            DType compute, DType table) {
  int64_t bytes = 0;
  for (const Module& module : backbone_modules(config)) {
    if (module.slot == Slot::kEmbedding || !stage.holds(module.layer, config.layers)) continue;
    bytes += int64_t(device.weight_bytes(module.out, module.in, compute));
  }
  const bool from_head =
      config.tied_embeddings && stage.end == config.layers && device.keeps_exact(table, compute);
  if (stage.first == 0 && !from_head) bytes += table_size(config) * int64_t(dtype_size(table));
  return bytes;
}

namespace {

// The number behind a key of a file of "key value" lines; 0 where there is none.
int64_t value_in(const std::string& path, std::string_view wanted) {
  std::ifstream file(path);
  int64_t value = 0;
  for (std::string key; file >> key;) {
    if (key == wanted && file >> value) return value;
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

// Where the system tells it, not getrusage()'s, which begins with the peak of the process that started this
// one.
int64_t peak_memory_bytes() {
  if (const int64_t own = value_in("/proc/self/status", "VmHWM:"); own > 0) return own * 1024;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t(usage.ru_maxrss) * 1024;
}

}  // namespace coppice
