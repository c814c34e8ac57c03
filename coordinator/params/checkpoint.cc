#include "coordinator/params/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "common/base/error.h"
#include "proto/store.pb.h"

namespace coppice {
namespace {

// Names of jobs hold no slash, and numbers are written so that their order as bytes is their order.
std::string record_key(const std::string& job) {
  return "job/" + job + "/record";
}
std::string head_key(const std::string& job) {
  return "job/" + job + "/head";
}
std::string metric_prefix(const std::string& job) {
  return "job/" + job + "/metric/";
}
std::string states_prefix(const std::string& job) {
  return "job/" + job + "/state/";
}
std::string state_prefix(const std::string& job, int64_t version) {
  return states_prefix(job) + fmt::format("{:016x}/", version);
}
// part 0: the parameter; 1...: its moments.
std::string chunk_key(const std::string& job, int64_t version, size_t tensor, size_t part) {
  return state_prefix(job, version) + fmt::format("{:08x}/{:x}", tensor, part);
}

std::string bytes_of(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.values.data()), tensor.values.size() * sizeof(float)};
}

template <typename Stored>
Stored parse(const std::string& key, std::string_view bytes) {
  Stored stored;
  if (!stored.ParseFromArray(bytes.data(), int(bytes.size())))
    throw invalid("store: the value of {} is damaged", key);
  return stored;
}

JobRecord from_stored(const std::string& key, const proto::StoredRecord& stored) {
  if (stored.state() < 0 || stored.state() > int(JobState::kCancelled))
    throw invalid("store: the value of {} is damaged", key);
  JobRecord record;
  record.name = stored.name();
  record.ordinal = stored.ordinal();
  record.keys = parse_json(stored.keys(), "store: keys in " + key);
  record.method = parse_json(stored.method(), "store: method in " + key);
  record.state = JobState(stored.state());
  record.reason = stored.reason();
  record.total_steps = stored.total_steps();
  record.trainable_parameters = stored.trainable_parameters();
  record.backbone = stored.backbone();
  record.backbone_fingerprint = stored.backbone_fingerprint();
  record.data_fingerprint = stored.data_fingerprint();
  record.dtype = stored.dtype();
  record.instruction_set = stored.instruction_set();
  return record;
}

proto::StoredRecord to_stored(const JobRecord& record) {
  proto::StoredRecord stored;
  stored.set_name(record.name);
  stored.set_ordinal(record.ordinal);
  stored.set_keys(record.keys.dump());
  stored.set_method(record.method.dump());
  stored.set_state(int(record.state));
  stored.set_reason(record.reason);
  stored.set_total_steps(record.total_steps);
  stored.set_trainable_parameters(record.trainable_parameters);
  stored.set_backbone(record.backbone);
  stored.set_backbone_fingerprint(record.backbone_fingerprint);
  stored.set_data_fingerprint(record.data_fingerprint);
  stored.set_dtype(record.dtype);
  stored.set_instruction_set(record.instruction_set);
  return stored;
}

std::optional<proto::StoredHead> stored_head(const KvReader& store, const std::string& job) {
  const std::string key = head_key(job);
  const auto bytes = store.get(key);
  if (!bytes) return std::nullopt;
  return parse<proto::StoredHead>(key, *bytes);
}

Tensor read_chunk(const KvReader& store, const std::string& key, const Shape& shape) {
  const auto bytes = store.get(key);
  if (!bytes) throw invalid("store: {} is missing", key);
  for (int64_t size : shape) {
    if (size < 0 || size > int64_t(bytes->size()))
      throw invalid("store: {} has not the shape {}", key, shape_string(shape));
  }
  if (size_t(element_count(shape)) * sizeof(float) != bytes->size()) {
    throw invalid("store: {} has {} bytes, shape {} needs others", key, bytes->size(), shape_string(shape));
  }
  Tensor tensor(shape);
  std::memcpy(tensor.values.data(), bytes->data(), bytes->size());
  return tensor;
}

}  // namespace

std::string_view job_state_name(JobState state) {
  switch (state) {
    case JobState::kQueued:
      return "queued";
    case JobState::kRunning:
      return "running";
    case JobState::kPaused:
      return "paused";
    case JobState::kDone:
      return "done";
    case JobState::kFailed:
      return "failed";
    case JobState::kCancelled:
      return "cancelled";
  }
  return "";
}

std::vector<JobRecord> CheckpointReader::records() const {
  std::vector<JobRecord> records;
  store_.scan("job/", [&](std::string_view key, std::string_view value) {
    if (key.ends_with("/record")) {
      const std::string name(key);
      records.push_back(from_stored(name, parse<proto::StoredRecord>(name, value)));
    }
    return true;
  });
  std::sort(records.begin(), records.end(),
            [](const auto& a, const auto& b) { return a.ordinal < b.ordinal; });
  return records;
}

std::optional<JobRecord> CheckpointReader::record(const std::string& job) const {
  const std::string key = record_key(job);
  const auto bytes = store_.get(key);
  if (!bytes) return std::nullopt;
  return from_stored(key, parse<proto::StoredRecord>(key, *bytes));
}

std::optional<JobHead> CheckpointReader::head(const std::string& job) const {
  const auto stored = stored_head(store_, job);
  if (!stored) return std::nullopt;
  JobHead head;
  head.version = stored->version();
  head.tokens = stored->tokens();
  head.loss = stored->loss();
  head.eval_loss = stored->eval_loss();
  head.evaluated = stored->evaluated();
  head.seconds = stored->seconds();
  return head;
}

ShardState CheckpointReader::state(const std::string& job) const {
  const auto head = stored_head(store_, job);
  if (!head) throw not_found("store: job {} has no committed state", job);
  ShardState state;
  state.version = head->version();
  for (int i = 0; i < head->tensors_size(); ++i) {
    const auto& stored = head->tensors(i);
    const ShardTensor tensor{stored.number(), stored.name(),
                             Shape(stored.shape().begin(), stored.shape().end())};
    state.parameters.push_back(read_chunk(store_, chunk_key(job, state.version, size_t(i), 0), tensor.shape));
    auto& moments = state.moments.emplace_back();
    for (int m = 1; m <= stored.moments(); ++m) {
      moments.push_back(
          read_chunk(store_, chunk_key(job, state.version, size_t(i), size_t(m)), tensor.shape));
    }
    state.tensors.push_back(tensor);
  }
  return state;
}

std::vector<MetricRecord> CheckpointReader::metrics(const std::string& job) const {
  std::vector<MetricRecord> metrics;
  const std::string prefix = metric_prefix(job);
  store_.scan(prefix, [&](std::string_view key, std::string_view value) {
    metrics.push_back({std::stoll(std::string(key.substr(prefix.size())), nullptr, 16), std::string(value)});
    return true;
  });
  return metrics;
}

CheckpointWriter::CheckpointWriter(KvStore& store) : store_(store) {}

void CheckpointWriter::commit(const Commit& commit) {
  const std::string& job = commit.record.name;
  const auto before = stored_head(store_, job);
  Batch batch;
  if (commit.state) {
    const ShardState& state = *commit.state;
    if (state.version != commit.head.version) {
      throw failed("job {}: a commit of version {} has the state of {}", job, commit.head.version,
                   state.version);
    }
    if (before && before->version() > state.version) {
      throw failed("job {}: HEAD is at {}, a commit of {} came after it", job, before->version(),
                   state.version);
    }
    proto::StoredHead head;
    head.set_version(commit.head.version);
    head.set_tokens(commit.head.tokens);
    head.set_loss(commit.head.loss);
    head.set_eval_loss(commit.head.eval_loss);
    head.set_evaluated(commit.head.evaluated);
    head.set_seconds(commit.head.seconds);
    const bool written = before && before->version() == state.version;  // a version has one value for ever
    for (size_t i = 0; i < state.tensors.size(); ++i) {
      auto* tensor = head.add_tensors();
      tensor->set_number(state.tensors[i].number);
      tensor->set_name(state.tensors[i].name);
      tensor->mutable_shape()->Add(state.tensors[i].shape.begin(), state.tensors[i].shape.end());
      tensor->set_moments(int(state.moments[i].size()));
      if (written) continue;
      Batch chunks;
      chunks.put(chunk_key(job, state.version, i, 0), bytes_of(state.parameters[i]));
      for (size_t m = 0; m < state.moments[i].size(); ++m) {
        chunks.put(chunk_key(job, state.version, i, m + 1), bytes_of(state.moments[i][m]));
      }
      store_.write(chunks, false);
    }
    batch.put(head_key(job), head.SerializeAsString());
    // Every other version goes: those before, and what a crash left of one that no HEAD ever named.
    const std::string current = state_prefix(job, state.version);
    store_.scan(states_prefix(job), [&](std::string_view key, std::string_view) {
      if (!key.starts_with(current)) batch.erase(std::string(key));
      return true;
    });
  }
  batch.put(record_key(job), to_stored(commit.record).SerializeAsString());
  for (const MetricRecord& metric : commit.metrics) {
    batch.put(metric_prefix(job) + fmt::format("{:016x}", metric.sequence), metric.line);
  }
  store_.write(batch, true);
}

size_t CheckpointWriter::live_bytes() const {
  size_t bytes = 0;
  store_.scan("", [&](std::string_view key, std::string_view value) {
    bytes += key.size() + value.size();
    return true;
  });
  return bytes;
}

}  // namespace coppice
