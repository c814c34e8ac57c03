#include "coordinator/cli/bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "common/base/error.h"
#include "common/base/random.h"
#include "common/io/files.h"
#include "common/io/json.h"
#include "coordinator/cli/run.h"
#include "coordinator/schedule/memory_model.h"
#include "kernels/profile.h"
#include "worker/backbone/config.h"

namespace coppice {
namespace {

constexpr int64_t kWarmUpSteps = 1;

struct Lengths {
  int64_t shortest = 0, longest = 0;
};

Lengths read_lengths(const std::string& text) {
  long long first = 0, last = 0;
  int end = 0;
  if (std::sscanf(text.c_str(), "%lld-%lld%n", &first, &last, &end) != 2 || size_t(end) != text.size()) {
    if (std::sscanf(text.c_str(), "%lld%n", &first, &end) != 1 || size_t(end) != text.size()) first = 0;
    last = first;
  }
  if (first < 2 || last < first)
    throw invalid("--lengths is {}; a number from 2 or a range such as 32-512 is accepted", text);
  return {first, last};
}

// A folder of the bench's own, gone with this object unless it is to be kept.
class WorkFolder {
 public:
  explicit WorkFolder(const std::string& keep) : kept_(!keep.empty()), path_(keep) {
    if (kept_) {
      std::filesystem::create_directories(path_);
      return;
    }
    path_ = std::filesystem::temp_directory_path() / "coppice-bench-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) throw system_error(path_, "cannot make a folder", errno);
  }
  ~WorkFolder() {
    std::error_code ignored;
    if (!kept_) std::filesystem::remove_all(path_, ignored);
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  bool kept_;
  std::string path_;
};

// What one run has to compute, from the warm-up's end on.
struct Work {
  int64_t tokens = 0;
  double pairs = 0;  // of query and key
};

// Rows of random tokens for every step of a job.
void write_data(const std::string& path, const BenchOptions& options, int64_t job, int64_t vocabulary,
                Work& work) {
  const Lengths lengths = read_lengths(options.lengths);
  Random random(stream_key(1, Purpose::kSampling, {uint64_t(job)}));
  const int64_t warm_up = kWarmUpSteps * options.batch, rows = warm_up + options.steps * options.batch;
  write_file_atomically(path, [&](const Append& append) {
    for (int64_t row = 0; row < rows; ++row) {
      const auto span = uint64_t(lengths.longest - lengths.shortest + 1);
      const int64_t length = lengths.shortest + int64_t(random.below(span));
      std::vector<uint64_t> ids;
      for (int64_t i = 0; i < length; ++i) ids.push_back(random.below(uint64_t(vocabulary)));
      append(Json{{"input_ids", ids}}.dump() + "\n");
      if (row < warm_up) continue;
      work.tokens += length;
      work.pairs += double(length) * double(length + 1) / 2;
    }
  });
}

// Writes the job file and its data; returns what is to be computed.
Work write_jobs(const std::string& folder, const BenchOptions& options, const BackboneConfig& config) {
  Work work;
  Json jobs = Json::array();
  for (int64_t job = 0; job < options.jobs; ++job) {
    const std::string data = fmt::format("job-{}.jsonl", job);
    write_data(folder + "/" + data, options, job, config.vocabulary, work);
    jobs.push_back({{"name", fmt::format("job-{}", job)}, {"data", {{"train", data}}}});
  }
  const Json file = {
      {"backbone", std::filesystem::absolute(options.backbone).string()},
      {"defaults",
       {{"method",
         {{"peft_type", "LORA"}, {"r", options.rank}, {"lora_alpha", 16}, {"target_modules", "all-linear"}}},
        {"data", {{"shuffle", false}, {"max_length", config.max_positions}}},
        {"train",
         {{"gradient_checkpointing", options.checkpointing},
          {"max_steps", kWarmUpSteps + options.steps},
          {"per_device_train_batch_size", options.batch},
          {"learning_rate", 1e-4}}}}},
      {"jobs", jobs}};
  write_file_atomically(folder + "/jobs.yaml", file.dump(1) + "\n");
  return work;
}

bool one_thread(const ComputeOptions& compute) {
  return (compute.threads > 0 ? compute.threads : usable_cores()) == 1;
}

// Multiplications and additions: every projection of a token forward and backward to its input, adapters
// forward and backward to input and factors, attention's two and five products of the pairs that are seen.
double flops_of(const BackboneConfig& config, const Work& work, int64_t rank) {
  double weights = 0, sides = 0;
  for (const Module& module : backbone_modules(config)) {
    if (module.slot == Slot::kEmbedding) continue;
    weights += double(module.in) * double(module.out);
    if (module.slot != Slot::kHead) sides += double(module.in + module.out);
  }
  const double attention = 14.0 * work.pairs * double(config.layers * config.heads * config.head_dim);
  return double(work.tokens) * (4 * weights + 6 * double(rank) * sides) + attention;
}

struct Speed {
  double mean = 0, best = 0;  // tokens/s
};

// From the times of updates in metrics.jsonl: of all that came after the warm-up, and of the best row of as
// many updates as there are jobs.
Speed speed_of(const std::string& metrics, size_t jobs) {
  struct Update {
    double seconds = 0, tokens = 0;
  };
  std::vector<Update> updates;
  std::map<std::string, double> tokens_before;
  std::ifstream file(metrics);
  double warm = 0;
  for (std::string line; std::getline(file, line);) {
    const Json json = parse_json(line, metrics);
    const std::string job = json["job"];
    const double tokens = json["tokens"], seconds = json["time"];
    updates.push_back({seconds, tokens - tokens_before[job]});
    tokens_before[job] = tokens;
    if (json["step"] <= kWarmUpSteps) warm = std::max(warm, seconds);
  }
  std::sort(updates.begin(), updates.end(),
            [](const Update& a, const Update& b) { return a.seconds < b.seconds; });
  Speed speed;
  double tokens = 0;
  for (size_t i = 0; i < updates.size(); ++i) {
    if (updates[i].seconds <= warm) continue;
    tokens += updates[i].tokens;
    speed.mean = tokens / (updates[i].seconds - warm);
    double some = 0;
    for (size_t back = 0; back < jobs; ++back) some += updates[i - back].tokens;
    speed.best = std::max(speed.best, some / (updates[i].seconds - updates[i - jobs].seconds));
  }
  return speed;
}

void print_profile(const Profile& profile, double ceiling) {
  std::vector<std::pair<std::string, OperatorProfile>> sorted(profile.operators.begin(),
                                                              profile.operators.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  const double elapsed = profile.elapsed_seconds();
  std::printf("%-32s %8s %9s %6s %9s %6s %8s\n", "operator", "calls", "ms", "share", "GFLOP/s", "ceil",
              "GB/s");
  double operators = 0;
  for (const auto& [name, one] : sorted) {
    operators += one.seconds;
    std::printf("%-32s %8lld %9.1f %5.1f%% ", name.c_str(), static_cast<long long>(one.calls),
                one.seconds * 1e3, 100 * one.seconds / elapsed);
    if (one.flops > 0) {
      std::printf("%9.1f %6.2f", one.flops / one.seconds * 1e-9, one.flops / one.seconds * 1e-9 / ceiling);
    } else {
      std::printf("%9s %6s", "", "");
    }
    std::printf(" %8.1f\n", one.bytes / one.seconds * 1e-9);
  }
  std::printf("%-32s %8s %9.1f %5.1f%%\n", "between operators", "", (elapsed - operators) * 1e3,
              100 * (1 - operators / elapsed));
}

int bench_training(const BenchOptions& options) {
  const BackboneConfig config = read_backbone_config(options.backbone);
  const WorkFolder folder(options.keep);
  const Work work = write_jobs(folder.path(), options, config);
  double ceiling = 0;
  std::string device_name, dtype;
  {
    Device device(options.compute);
    ceiling = measure_ceiling(*device.backend, device.compute, one_thread(options.compute));
    dtype = device.dtype_name();
    device_name = fmt::format("{} ({}), {}, {} threads", device.backend->name(),
                              device.backend->instruction_set(), device.dtype_name(), device.pool.threads());
  }
  RunOptions run;
  run.jobs_file = folder.path() + "/jobs.yaml";
  run.session.output = folder.path() + "/run";
  run.progress = "none";
  run.session.pack_rows = options.pack_rows;
  run.session.stages = options.stages;
  run.session.compute = options.compute;
  run.session.compute.dtype = dtype;
  Profile profile;
  profile.by_processor = one_thread(options.compute);
  if (options.profile || profile.by_processor) {
    run.session.compute.wrap = [&](std::unique_ptr<Backend> device) -> std::unique_ptr<Backend> {
      return std::make_unique<ProfiledBackend>(std::move(device), kWarmUpSteps, profile);
    };
  }
  RunReport report;
  if (const int status = run_jobs(run, &report); status != 0) return status;
  const Speed speed = speed_of(run.session.output + "/metrics.jsonl", size_t(options.jobs));
  const double flops_a_token = flops_of(config, work, options.rank) / double(work.tokens);
  std::printf("%s; ceiling %.0f GFLOP/s; %.0f MFLOP a token\n", device_name.c_str(), ceiling,
              flops_a_token * 1e-6);
  std::printf("tokens/s: best %.1f, mean %.1f\n", speed.best, speed.mean);
  if (profile.by_processor)
    std::printf("tokens/s of the processor: %.1f, share of the ceiling %.3f\n",
                double(work.tokens) / profile.elapsed_seconds(),
                double(work.tokens) / profile.elapsed_seconds() * flops_a_token * 1e-9 / ceiling);
  std::printf("share of the ceiling: best %.3f, mean %.3f\n", speed.best * flops_a_token * 1e-9 / ceiling,
              speed.mean * flops_a_token * 1e-9 / ceiling);
  const double said = double(report.model_memory_bytes) / (1 << 20);
  const double peak = double(peak_memory_bytes()) / (1 << 20);
  std::printf("peak memory: %.0f MiB; the memory model said %.0f MiB; ratio %.3f\n", peak, said, peak / said);
  if (options.profile) print_profile(profile, ceiling);
  return 0;
}

}  // namespace

int run_bench(const BenchOptions& options) {
  if (!options.write_backbone.empty()) write_random_backbone(options.write_backbone, options.shape);
  if (options.kernels) bench_kernels(options.compute);
  if (options.parameter_server) bench_parameters(options.compute);
  if (!options.backbone.empty()) return bench_training(options);
  if (options.write_backbone.empty() && !options.kernels && !options.parameter_server)
    throw invalid("bench needs --backbone, --write-backbone, --kernels or --parameter-server");
  return 0;
}

}  // namespace coppice
