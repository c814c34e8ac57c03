#include "coordinator/cli/session.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "common/base/error.h"
#include "coordinator/schedule/measure_costs.h"

namespace coppice {
namespace {

constexpr auto kIdle = std::chrono::microseconds(100);
constexpr double kGoodbye_s = 600;  // shards may have much to make durable

ClusterShape checked_shape(const SessionOptions& options) {
  const auto count = [](const char* option, int64_t value, int64_t least) {
    if (value < least || value > 65536)
      throw invalid("{} is {}; a number from {} to 65536 is accepted", option, value, least);
    return int(value);
  };
  return {count("--param-ranks", options.param_ranks, 0), count("--pipelines", options.pipelines, 1),
          count("--stages", options.stages, 1)};
}

ComputeOptions settled(const SessionOptions& options, const Launch& launch, const ClusterShape& shape,
                       const std::function<bool(const JobRecord&)>& goes_on) {
  ComputeOptions compute = options.compute;
  if (compute.threads <= 0) compute.threads = launch.default_threads(shape);
  if (compute.dtype == "auto") compute.dtype = recorded_dtype(options.output, goes_on).value_or("auto");
  return compute;
}

std::vector<LayerRange> plan(const SessionOptions& options, Device& device, const Backbone& backbone) {
  if (!options.split.empty()) {
    auto ranges = parse_split(options.split, backbone.config);
    if (int64_t(ranges.size()) != options.stages)
      throw invalid("--split {} names {} stages, --stages is {}", options.split, ranges.size(),
                    options.stages);
    return ranges;
  }
  if (options.stages == 1 || options.stages >= backbone.config.layers)
    return plan_stages(backbone.config, options.stages);
  return plan_stages(backbone.config, options.stages,
                     measure_costs(*device.backend, backbone.config, backbone.path, device.compute));
}

std::string rank_name(const ClusterShape& shape, int rank, const std::vector<LayerRange>& ranges) {
  if (rank == 0) return shape.shards == 0 ? "coordinator and parameters" : "coordinator";
  if (rank <= shape.shards) return fmt::format("shard {}", rank);
  const int pipeline = (rank - 1 - shape.shards) / shape.stages,
            stage = (rank - 1 - shape.shards) % shape.stages;
  const LayerRange& range = ranges[size_t(stage)];
  return fmt::format("pipeline {} stage {}, layers {} to {}", pipeline, stage, range.first, range.end - 1);
}

// More than is there helps nobody.
int64_t within(int64_t available_bytes, int64_t wanted_bytes) {
  return wanted_bytes > 0 ? std::min(wanted_bytes, available_bytes) : available_bytes;
}

}  // namespace

Session::Session(const SessionOptions& options, Launch& launch, Backbone backbone,
                 const std::function<bool(const JobRecord&)>& goes_on)
    : options_(options),
      launch_(launch),
      shape_(checked_shape(options)),
      device_(settled(options, launch, shape_, goes_on)),
      backbone_(std::move(backbone)),
      trace_began_(steady_seconds()),
      available_bytes_(within(available_memory_bytes(), options.memory_bytes)),
      cluster_(launch.cluster(device_, shape_)),
      ranges_(plan(options_, device_, backbone_)) {}

Session::~Session() = default;

MemoryModel Session::empty_model() const {
  MemoryModel model;
  model.config = backbone_.config;
  model.compute = device_.compute;
  model.threads = device_.pool.threads();
  model.pack_rows = pack_rows();
  model.packs = credits();
  model.in_turn = !launch_.launched();
  model.coordinator = false;
  model.parameter_share = 0;
  model.stores = 0;
  model.processes = 0;
  return model;
}

void Session::add_rank(MemoryModel& model, int rank) const {
  if (launch_.launched() || rank == 0) ++model.processes;
  if (rank == 0) {
    model.coordinator = true;
    model.stores += 1;
    if (shape_.shards == 0) model.parameter_share = 1;
  } else if (rank <= shape_.shards) {
    model.stores += 1;
    model.parameter_share += 1.0 / shape_.shards;
  } else {
    const LayerRange& range = ranges_[size_t((rank - 1 - shape_.shards) % shape_.stages)];
    model.stages.push_back(range);
    model.weight_bytes +=
        frozen_weight_bytes(*device_.backend, backbone_.config, range, device_.compute, backbone_.table);
  }
}

MemoryModel Session::memory_before_start() const {
  MemoryModel model = empty_model();
  for (int rank = 0; rank < shape_.ranks(); ++rank) add_rank(model, rank);
  model.limit_bytes = launch_.launched() ? INT64_MAX : available_bytes_;
  return model;
}

// A model for each host, rank 0's first.
std::vector<MemoryModel> Session::models(const std::vector<RankInfo>& ranks) const {
  std::vector<MemoryModel> models{empty_model()};
  models[0].host = host_name();
  models[0].limit_bytes = available_bytes_;
  add_rank(models[0], 0);
  for (int rank = 1; rank < shape_.ranks(); ++rank) {
    const RankInfo& info = ranks[size_t(rank - 1)];
    auto model =
        std::find_if(models.begin(), models.end(), [&](const auto& m) { return m.host == info.host; });
    if (model == models.end()) {
      models.push_back(empty_model());
      model = models.end() - 1;
      model->host = info.host;
      model->limit_bytes = within(info.available_bytes, options_.memory_bytes);
    }
    add_rank(*model, rank);
  }
  if (models.size() == 1) models[0].host.clear();
  return models;
}

// One stage that shares its thread with the coordinator can only do one pack at a time. Stages of one process
// take turns too; of one more pack than there are stages, the next is there when a stage has done one.
// Between ranks that compute at once two more are what hides messages, updates and packs of unequal length
// (tests/bench/RESULTS.md).
int64_t Session::credits() const {
  if (launch_.launched()) return shape_.stages + 3;
  return shape_.stages == 1 && shape_.ranks() == 2 ? 1 : shape_.stages + 1;
}

int64_t Session::pack_rows() const {
  if (options_.pack_rows > 0) return options_.pack_rows;
  const int64_t at_once = launch_.launched() ? shape_.stages : 1;  // ranks that work on it together
  return default_pack_rows(backbone_.config, at_once * device_.pool.threads(), device_.compute);
}

RunFolder& Session::open_folder() {
  folder_ = std::make_unique<RunFolder>(options_.output);
  return *folder_;
}

Engine& Session::start() {
  if (!options_.trace.empty()) {
    trace_ = std::make_unique<TraceFile>(options_.trace);
    for (int rank = 0; rank < shape_.ranks(); ++rank)
      trace_->name_rank(rank, rank_name(shape_, rank, ranges_));
  }
  RankSettings settings{options_.output, ranges_, options_.compute, trace_ != nullptr,
                        steady_seconds() - trace_began_};
  settings.compute.dtype = device_.dtype_name();
  settings.compute.threads = device_.pool.threads();
  const auto ranks = cluster_->configure(
      settings, backbone_, device_.backend->instruction_set(),
      [](const std::string& text) { std::fprintf(stderr, "coppice: %s\n", text.c_str()); });
  EngineOptions engine;
  engine.output = options_.output;
  engine.stages = ranges_;
  engine.pack_rows = pack_rows();
  engine.credits = credits();
  engine.hosts = models(ranks);
  engine.dtype = device_.dtype_name();
  engine.instruction_set = device_.backend->instruction_set();
  engine.trace_began = trace_began_;
  engine.seconds_before = folder_->seconds();
  engine.metrics = folder_->take_metrics();
  engine.first_ordinal = folder_->next_ordinal();
  engine_ =
      std::make_unique<Engine>(*cluster_, *device_.backend, backbone_, folder_->store(), std::move(engine));
  if (trace_) {
    engine_->on_span([this](int rank, const std::vector<TraceSpan>& spans) { trace_->add(rank, spans); });
  }
  return *engine_;
}

void Session::work(Progress& progress, const std::function<bool()>& beside, bool keep_on) {
  try {
    loop(progress, beside, keep_on);
  } catch (const Error&) {
    try {
      engine_->save_all();    // a rank is gone; the store perhaps is not
    } catch (const Error&) {  // the first error says why
    }
    throw;
  }
  const bool home =
      cluster_->shut_down(kGoodbye_s, [this](const Message& message) { engine_->take(message); });
  if (!home) throw failed("not all ranks have answered within {} s", kGoodbye_s);
  launch_.ended();
  if (trace_) trace_->close();
}

void Session::loop(Progress& progress, const std::function<bool()>& beside, bool keep_on) {
  bool stopping = false;
  while (keep_on ? !stopping || !engine_->ended() : !engine_->ended()) {
    if (StopOnSignal::asked() && !stopping) {
      stopping = true;
      std::fprintf(stderr, "coppice: stopping%s; a second signal ends at once\n",
                   engine_->ended() ? "" : ": every job is committed at the last step that it has done");
      engine_->request_stop();
    }
    bool worked = engine_->poll();
    worked |= cluster_->poll();
    worked |= beside();
    progress.refresh(*engine_, false);
    if (!worked) std::this_thread::sleep_for(kIdle);
  }
  engine_->close();
  progress.refresh(*engine_, true);
}

}  // namespace coppice
