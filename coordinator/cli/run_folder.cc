#include "coordinator/cli/run_folder.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <set>

#include "common/base/error.h"
#include "common/store/folder_lock.h"
#include "coordinator/device.h"
#include "coordinator/jobs/job_file.h"

namespace coppice {
namespace {

void require_same(const std::string& job, std::string_view what, const std::string& before,
                  const std::string& now) {
  if (before == now) return;
  throw invalid("job {}: {} is {} now and was {} when the job began; a run goes on with what it began with",
                job, what, now, before);
}

// What makes a processor that computes with `is` compute with `wanted`, where anything does.
std::string way_to(const std::string& wanted, const std::string& is) {
  constexpr std::array<std::string_view, 4> kLevels = {"avx2", "avx512", "avx512_bf16", "amx"};
  const auto level = [&](const std::string& name) {
    return std::find(kLevels.begin(), kLevels.end(), name) - kLevels.begin();
  };
  if (level(wanted) < level(is)) return "COPPICE_MAX_ISA=" + wanted;
  return fmt::format("a processor that has {} (and COPPICE_MAX_ISA not below it)", wanted);
}

std::string hex(uint64_t value) {
  return fmt::format("{:016x}", value);
}

using std::filesystem::file_type;

// named: what is at fault where the file system cannot say, because a name is too long or a folder may not be
// searched.
file_type type_of(const std::string& path, const std::string& named) {
  std::error_code error;
  const file_type type = std::filesystem::status(path, error).type();
  if (type == file_type::none) throw invalid("{}: {}", named, error.message());
  return type;
}

bool has(const std::string& output, const std::string& name) {
  return type_of(output + name, "--output " + output) != file_type::not_found;
}

}  // namespace

bool has_store(const std::string& path) {
  return has(path, "/store/CURRENT");
}

std::string shard_folder(const std::string& run_folder, int shard) {
  return fmt::format("{}/store/shard-{}", run_folder, shard);
}

KvReader& ShardReaders::of(int shard) {
  auto& reader = readers_[shard];
  if (!reader) reader = open_rocksdb_readonly(shard_folder(run_folder_, shard));
  return *reader;
}

ShardStores ShardReaders::stores() {
  return [this](int shard) -> KvReader& { return of(shard); };
}

void require_same_machine(const JobRecord& record, const Backbone& backbone, const std::string& dtype,
                          const std::string& instruction_set) {
  require_same(record.name, "the backbone's content", hex(record.backbone_fingerprint),
               hex(backbone.fingerprint));
  std::string differs, wanted;
  const auto compare = [&](const char* what, const std::string& was, const std::string& is,
                           const std::string& remedy) {
    if (was == is) return;
    differs += fmt::format("{}{} is {} and was {}", differs.empty() ? "" : ", ", what, is, was);
    if (!remedy.empty()) wanted += (wanted.empty() ? "" : ", ") + remedy;
  };
  const std::string began_on = device_of(record.instruction_set), device = device_of(instruction_set);
  compare("--dtype", record.dtype, dtype, "--dtype " + record.dtype);
  compare("--device", began_on, device, "--device " + began_on);
  compare("the instruction set", record.instruction_set, instruction_set,
          began_on == device ? way_to(record.instruction_set, instruction_set) : "");
  if (differs.empty()) return;
  throw invalid(
      "job {}: {} when the job began: from here on its bits would be others. It goes on with {}; with "
      "anything else it must begin anew, under another --output or another name",
      record.name, differs, wanted);
}

std::optional<std::string> recorded_dtype(const std::string& path,
                                          const std::function<bool(const JobRecord&)>& matters) {
  if (!has_store(path)) return std::nullopt;
  std::set<std::string> all, of_those;
  for (const JobRecord& record : open_run_folder(path)->checkpoints().records()) {
    all.insert(record.dtype);
    if (matters(record)) of_those.insert(record.dtype);
  }
  const auto& dtypes = of_those.empty() ? all : of_those;
  if (dtypes.size() != 1) return std::nullopt;
  return *dtypes.begin();
}

void check_run_folder(const std::string& path) {
  if (path.empty()) throw invalid("--output is empty; the name of a folder is accepted");
  const file_type type = type_of(path, "--output " + path);
  if (type != file_type::directory && type != file_type::not_found)
    throw invalid("--output {}: is no folder", path);
  if (has(path, "/metrics.jsonl") && !has_store(path)) {
    throw invalid(
        "--output {}: has a metrics.jsonl, but no store/: it is no run folder, and the file would be lost",
        path);
  }
}

RunFolder::RunFolder(const std::string& path) : path_(path) {
  check_run_folder(path);
  std::error_code error;
  std::filesystem::create_directories(path + "/adapters", error);
  if (error) throw invalid("--output {}: {}", path, error.message());
  store_ = open_rocksdb(path + "/store");
  const CheckpointReader reader(*store_);
  for (JobRecord& record : reader.records()) {
    StoredJob job;
    job.head = reader.head(record.name);
    job.metrics = reader.metrics(record.name);
    job.record = std::move(record);
    const std::string name = job.record.name;
    jobs_.emplace(name, std::move(job));
  }
  remove_unnamed_shards(reader.shards());
}

// Of a run with more shards: every job has moved on from there. A shard of the run before that has not died
// yet holds its folder, and is named.
void RunFolder::remove_unnamed_shards(const std::vector<int>& named) {
  constexpr std::string_view kPrefix = "shard-";
  std::vector<std::filesystem::path> unnamed;
  for (const auto& entry : std::filesystem::directory_iterator(path_ + "/store")) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    int shard = 0;
    const char* const end = name.data() + name.size();
    const auto number = std::from_chars(name.data() + kPrefix.size(), end, shard);
    if (number.ec != std::errc() || number.ptr != end) continue;
    if (!std::binary_search(named.begin(), named.end(), shard)) unnamed.push_back(entry.path());
  }
  for (const auto& folder : unnamed) {
    const FolderLock lock(folder.string());
    std::error_code error;
    std::filesystem::remove_all(folder, error);
    if (error) throw invalid("{}: cannot be removed: {}", folder.string(), error.message());
  }
}

std::vector<MetricRecord> RunFolder::take_metrics() {
  std::vector<MetricRecord> all;
  for (auto& [name, job] : jobs_) {
    std::move(job.metrics.begin(), job.metrics.end(), std::back_inserter(all));
    std::vector<MetricRecord>().swap(job.metrics);
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  return all;
}

std::vector<StoredJob> RunFolder::jobs() const {
  std::vector<StoredJob> jobs;
  for (const auto& [name, job] : jobs_) jobs.push_back({job.record, job.head, {}, {}});
  std::sort(jobs.begin(), jobs.end(),
            [](const auto& a, const auto& b) { return a.record.ordinal < b.record.ordinal; });
  return jobs;
}

int64_t RunFolder::next_ordinal() const {
  int64_t next = 0;
  for (const auto& [name, job] : jobs_) next = std::max(next, job.record.ordinal + 1);
  return next;
}

double RunFolder::seconds() const {
  double seconds = 0;
  for (const auto& [name, job] : jobs_) {
    if (job.head) seconds = std::max(seconds, job.head->seconds);
  }
  return seconds;
}

void require_same_job(const std::string& path, const JobRecord& record, const PreparedJob& job,
                      const Backbone& backbone, const std::string& dtype,
                      const std::string& instruction_set) {
  const std::string& name = job.spec.name;
  if (const std::string key = changed_key(record.keys, job.spec.keys); !key.empty()) {
    throw invalid(
        "job {}: {} has changed since the run in {} began; only a higher train.max_steps or "
        "train.num_train_epochs "
        "is accepted (another name makes a new job)",
        name, key, path);
  }
  if (record.method != job.method->hf_config()) {
    throw invalid("job {}: its method (of init_adapter {}) is not what it was when the run in {} began", name,
                  job.spec.init_adapter.value_or("none"), path);
  }
  require_same_machine(record, backbone, dtype, instruction_set);
  require_same(name, "the data's content", hex(record.data_fingerprint), hex(job.data_fingerprint()));
}

std::optional<StoredJob> RunFolder::known(const PreparedJob& job, const Backbone& backbone,
                                          const std::string& dtype, const std::string& instruction_set,
                                          bool retry_failed) const {
  const std::string& name = job.spec.name;
  const auto it = jobs_.find(name);
  if (it == jobs_.end()) return std::nullopt;
  const JobRecord& record = it->second.record;
  require_same_job(path_, record, job, backbone, dtype, instruction_set);
  StoredJob stored{record, it->second.head, {}, {}};
  // With readers of its own, so that files which the shards give back are not held.
  stored.state = [this, name] {
    ShardReaders shards(path_);
    return CheckpointReader(*store_, shards.stores()).state(name);
  };
  if (stored.record.state == JobState::kFailed && retry_failed) stored.record.state = JobState::kRunning;
  return stored;
}

RunFolderReader::RunFolderReader(const std::string& path)
    : store_(open_rocksdb_readonly(path + "/store")),
      shards_(path),
      checkpoints_(*store_, shards_.stores()) {}

std::unique_ptr<RunFolderReader> open_run_folder(const std::string& path) {
  if (type_of(path + "/store", path) != file_type::directory)
    throw not_found("{}: is no run folder (it has no store/)", path);
  return std::make_unique<RunFolderReader>(path);
}

std::string shell_word(const std::string& word) {
  if (!word.empty() && word.find_first_of(" \t\n'\"\\$`*?[]{}()<>|&;#~!") == std::string::npos) return word;
  std::string out = "'";
  for (char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string retry_command(const std::string& path) {
  return fmt::format("`coppice run JOBS.yaml --output {} --retry-failed`",
                     shell_word(std::filesystem::absolute(path).lexically_normal().string()));
}

bool is_running(const std::string& path) {
  return is_held(path + "/store");
}

}  // namespace coppice
