#include "coordinator/cluster.h"

#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include "common/base/check.h"
#include "common/base/error.h"

namespace coppice {
namespace {

constexpr auto kIdle = std::chrono::microseconds(200);

std::string absolute(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

proto::Configure configure_stage(const ClusterShape& shape, int pipeline, size_t stage,
                                 const std::vector<LayerRange>& ranges, const std::string& backbone) {
  proto::Configure message;
  const auto ranks = shape.stage_ranks(pipeline);
  auto& role = *message.mutable_stage();
  role.set_backbone(absolute(backbone));
  role.set_first_layer(ranges[stage].first);
  role.set_end_layer(ranges[stage].end);
  if (stage > 0) role.set_previous(ranks[stage - 1]);
  if (stage + 1 < ranks.size()) role.set_next(ranks[stage + 1]);
  return message;
}

}  // namespace

void check_same(const std::string& rank, const proto::Configured& answer, const Backbone& backbone,
                const std::string& instruction_set) {
  if (answer.instruction_set() != instruction_set) {
    throw invalid("{} on {} computes with {}, rank 0 with {}; the same is needed for equal bits", rank,
                  answer.host(), answer.instruction_set(), instruction_set);
  }
  if (answer.backbone_fingerprint() != 0 && answer.backbone_fingerprint() != backbone.fingerprint) {
    throw invalid("{} on {} finds another backbone at {} than rank 0", rank, answer.host(), backbone.path);
  }
}

std::vector<int> ClusterShape::shard_ranks() const {
  if (shards == 0) return {0};
  std::vector<int> ranks;
  for (int shard = 1; shard <= shards; ++shard) ranks.push_back(shard);
  return ranks;
}

std::vector<int> ClusterShape::stage_ranks(int pipeline) const {
  CHECK(pipeline >= 0 && pipeline < pipelines);
  std::vector<int> ranks;
  for (int stage = 0; stage < stages; ++stage) ranks.push_back(1 + shards + pipeline * stages + stage);
  return ranks;
}

std::string ClusterShape::named(int rank) const {
  const int stage = rank - 1 - shards;
  const std::string role = rank == 0 ? "the coordinator"
                           : rank <= shards
                               ? fmt::format("parameter rank {} of {}", rank, shards)
                               : fmt::format("stage {} of pipeline {}", stage % stages, stage / stages);
  return fmt::format("rank {} ({})", rank, role);
}

std::string ClusterShape::formula() const {
  return fmt::format("1 + {} (--param-ranks) + {} (--pipelines) x {} (--stages) = {}", shards, pipelines,
                     stages, ranks());
}

void throw_rank_failed(const ClusterShape& shape, const Message& message) {
  const auto told = read_header<proto::RankFailed>(message);
  const bool known = told.code() >= 0 && told.code() <= int(ErrorCode::kFailed);
  throw Error(known ? ErrorCode(told.code()) : ErrorCode::kFailed,
              fmt::format("{}: {}", shape.named(message.from), told.message()));
}

Cluster::Cluster(Device& device, const ClusterShape& shape)
    : shape_(shape), ends_(make_loopback(shape.ranks())), transport_(ends_[0].get()) {
  for (int rank = 1; rank < shape.ranks(); ++rank) {
    ranks_.push_back(std::make_unique<Rank>(*ends_[size_t(rank)], &device));
  }
}

Cluster::Cluster(Transport& transport, const ClusterShape& shape) : shape_(shape), transport_(&transport) {
  CHECK(transport.size() == shape.ranks());
}

Cluster::~Cluster() = default;

bool Cluster::poll() {
  bool worked = false;
  for (auto& rank : ranks_) worked |= rank->poll();
  return worked;
}

std::vector<RankInfo> Cluster::configure(const RankSettings& settings, const Backbone& backbone,
                                         const std::string& instruction_set,
                                         const std::function<void(const std::string&)>& warn) {
  const auto send = [&](int rank, proto::Configure message) {
    message.set_device(settings.compute.device);
    message.set_dtype(settings.compute.dtype);
    message.set_threads(settings.compute.threads);
    message.set_trace(settings.trace);
    message.set_trace_seconds(settings.trace_seconds);
    message.set_steady_seconds(steady_seconds());
    message.set_host(host_name());
    transport().send(rank, make_message(proto::CONFIGURE, message));
  };
  for (int shard = 1; shard <= shape_.shards; ++shard) {
    proto::Configure message;
    message.mutable_shard()->set_store(absolute(fmt::format("{}/store/shard-{}", settings.output, shard)));
    send(shard, std::move(message));
  }
  for (int pipeline = 0; pipeline < shape_.pipelines; ++pipeline) {
    const auto ranks = shape_.stage_ranks(pipeline);
    for (size_t stage = 0; stage < ranks.size(); ++stage) {
      send(ranks[stage], configure_stage(shape_, pipeline, stage, settings.stages, backbone.path));
    }
  }
  std::vector<RankInfo> ranks(size_t(shape_.ranks()) - 1);
  for (int missing = shape_.ranks() - 1; missing > 0;) {
    const bool worked = poll();
    const auto message = transport().receive();
    if (!message) {
      if (!worked) std::this_thread::sleep_for(kIdle);
      continue;
    }
    if (message->kind == proto::RANK_FAILED) throw_rank_failed(shape_, *message);
    const std::string rank = shape_.named(message->from);
    if (message->kind != proto::CONFIGURED)
      throw failed("message of kind {} from {} came before it was ready", message->kind, rank);
    const auto answer = read_header<proto::Configured>(*message);
    check_same(rank, answer, backbone, instruction_set);
    if (ranks_.empty() && answer.threads() > answer.usable_cores()) {
      warn(
          fmt::format("{} on {} computes with {} threads but may use {} cores; --bind-to none or fewer "
                      "--threads may be faster",
                      rank, answer.host(), answer.threads(), answer.usable_cores()));
    }
    ranks.at(size_t(message->from) - 1) = {answer.host(), answer.available_bytes()};
    --missing;
  }
  return ranks;
}

void Cluster::send_home(const std::vector<int>& ranks) {
  for (int rank : ranks) {
    Message message;
    message.kind = proto::SHUT_DOWN;
    transport().send(rank, std::move(message));
  }
}

// Stages first: what they still push to shards arrives before those leave.
bool Cluster::shut_down(double timeout_s, const std::function<void(const Message&)>& other) {
  const double until = steady_seconds() + timeout_s;
  std::vector<int> shards, stages;
  for (int rank = 1; rank < shape_.ranks(); ++rank) (rank <= shape_.shards ? shards : stages).push_back(rank);
  for (const auto& group : {stages, shards}) {
    send_home(group);
    for (std::set<int> left(group.begin(), group.end()); !left.empty();) {
      const bool worked = poll();
      if (const auto message = transport().receive()) {
        if (message->kind == proto::SHUT_DOWN) {
          left.erase(message->from);
        } else {
          other(*message);
        }
        continue;
      }
      if (steady_seconds() > until) return false;
      if (!worked) std::this_thread::sleep_for(kIdle);
    }
  }
  return true;
}

}  // namespace coppice
