#include "coordinator/params/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "common/base/check.h"
#include "common/base/error.h"
#include "coordinator/params/stored.h"

namespace coppice {
namespace {

constexpr size_t kBatchBytes = 1 << 20;  // of chunks written together: their buffers are used again
constexpr int kTries = 20;               // of reading a state whose writer moves on meanwhile

std::optional<proto::StoredHead> stored_head(const KvReader& store, const std::string& job) {
  const std::string key = stored::head_key(job);
  const auto bytes = store.get(key);
  if (!bytes) return std::nullopt;
  return stored::read_head(key, *bytes);
}

void check_format(const KvReader& store) {
  const auto format = store.get(stored::kFormatKey);
  if (format && *format != stored::kFormat) {
    throw invalid("store: its format is {}; {} is accepted", *format, stored::kFormat);
  }
}

Tensor read_part(const KvReader& store, const std::string& job, int64_t version, size_t number, size_t part,
                 const proto::StoredTensor& stored) {
  Tensor tensor;
  tensor.shape.assign(stored.shape().begin(), stored.shape().end());
  const size_t bytes = stored::tensor_bytes(stored);
  // Grows with what is really there: a damaged shape may announce anything.
  for (size_t chunk = 0, done = 0; done < bytes; ++chunk) {
    const std::string key = stored::chunk_key(job, version, number, part, chunk);
    const auto value = store.get(key);
    if (!value) throw invalid("store: {} is missing", key);
    const size_t size = std::min(stored::kChunkBytes, bytes - done);
    if (value->size() != size) {
      throw stored::damaged(key, fmt::format("it has {} bytes, its part of shape {} needs {}", value->size(),
                                             shape_string(tensor.shape), size));
    }
    tensor.values.resize((done + size) / sizeof(float));
    std::memcpy(reinterpret_cast<std::byte*>(tensor.values.data()) + done, value->data(), size);
    done += size;
  }
  return tensor;
}

ShardState read_state(const KvReader& store, const std::string& job) {
  const auto head = stored_head(store, job);
  if (!head) throw not_found("store: job {} has no committed state", job);
  ShardState state;
  state.version = head->version();
  for (int i = 0; i < head->tensors_size(); ++i) {
    const auto& stored = head->tensors(i);
    const auto read = [&](int part) {
      return read_part(store, job, state.version, size_t(i), size_t(part), stored);
    };
    state.tensors.push_back(
        {stored.number(), stored.name(), Shape(stored.shape().begin(), stored.shape().end())});
    state.parameters.push_back(read(0));
    auto& moments = state.moments.emplace_back();
    for (int part = 1; part <= stored.moments(); ++part) moments.push_back(read(part));
  }
  return state;
}

// Puts values as chunks, and writes the batch whenever it has grown large.
class ChunkWriter {
 public:
  explicit ChunkWriter(KvStore& store) : store_(store) {}

  void put(const std::string& job, int64_t version, size_t tensor, size_t part, const Tensor& values) {
    const std::string_view bytes(reinterpret_cast<const char*>(values.values.data()),
                                 values.values.size() * sizeof(float));
    for (size_t chunk = 0; chunk * stored::kChunkBytes < bytes.size(); ++chunk) {
      const std::string_view piece = bytes.substr(chunk * stored::kChunkBytes, stored::kChunkBytes);
      if (held_bytes_ + piece.size() > kBatchBytes) flush();
      batch_.put(stored::chunk_key(job, version, tensor, part, chunk), std::string(piece));
      held_bytes_ += piece.size();
    }
  }
  void flush() {
    if (!batch_.changes.empty()) store_.write(batch_, false);
    batch_.changes.clear();
    held_bytes_ = 0;
  }

 private:
  KvStore& store_;
  Batch batch_;
  size_t held_bytes_ = 0;
};

void check_commit(const Commit& commit, const std::optional<proto::StoredHead>& before) {
  const std::string& job = commit.record.name;
  const ShardState& state = *commit.state;
  CHECK(state.version == commit.head.version);
  CHECK(state.parameters.size() == state.tensors.size() && state.moments.size() == state.tensors.size());
  for (size_t i = 0; i < state.tensors.size(); ++i) {
    CHECK(state.parameters[i].shape == state.tensors[i].shape);
    for (const Tensor& moment : state.moments[i]) CHECK(moment.shape == state.tensors[i].shape);
  }
  if (before && before->version() > state.version) {
    throw failed("job {}: HEAD is at version {}, a commit of {} came after it", job, before->version(),
                 state.version);
  }
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

CheckpointReader::CheckpointReader(KvReader& store) : store_(store) {
  check_format(store_);
}

std::vector<JobRecord> CheckpointReader::records() const {
  std::vector<JobRecord> records;
  store_.scan(stored::kRecordPrefix, [&](std::string_view key, std::string_view value) {
    records.push_back(stored::read_record(key, value));
    return true;
  });
  std::sort(records.begin(), records.end(),
            [](const auto& a, const auto& b) { return a.ordinal < b.ordinal; });
  return records;
}

std::optional<JobRecord> CheckpointReader::record(const std::string& job) const {
  const std::string key = stored::record_key(job);
  const auto bytes = store_.get(key);
  if (!bytes) return std::nullopt;
  return stored::read_record(key, *bytes);
}

std::optional<JobHead> CheckpointReader::head(const std::string& job) const {
  const auto head = stored_head(store_, job);
  if (!head) return std::nullopt;
  return stored::to_head(*head);
}

ShardState CheckpointReader::state(const std::string& job) const {
  for (int i = 1;; ++i) {
    try {
      return read_state(store_, job);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kBusy || i == kTries) throw;
    }
    store_.refresh();
  }
}

std::vector<MetricRecord> CheckpointReader::metrics(const std::string& job) const {
  std::vector<MetricRecord> metrics;
  const std::string prefix = stored::metric_prefix(job);
  store_.scan(prefix, [&](std::string_view key, std::string_view value) {
    metrics.push_back({stored::read_metric_key(key, prefix), std::string(value)});
    return true;
  });
  return metrics;
}

size_t CheckpointReader::live_bytes() const {
  size_t bytes = 0;
  const auto count = [&](std::string_view key, std::string_view value) {
    bytes += key.size() + value.size();
    return true;
  };
  store_.scan(stored::kRecordPrefix, count);
  store_.scan("metric/", count);
  store_.scan(stored::kHeadPrefix, [&](std::string_view key, std::string_view value) {
    const proto::StoredHead head = stored::read_head(key, value);
    for (const auto& tensor : head.tensors()) {
      bytes += stored::tensor_bytes(tensor) * size_t(1 + tensor.moments());
    }
    return count(key, value);
  });
  return bytes;
}

// A crash leaves chunks of a version that no HEAD names. Everything between the states that HEADs do name
// goes, without being read.
CheckpointWriter::CheckpointWriter(KvStore& store) : store_(store) {
  check_format(store_);
  std::vector<std::string> live;
  store_.scan(stored::kHeadPrefix, [&](std::string_view key, std::string_view value) {
    const std::string job(key.substr(stored::kHeadPrefix.size()));
    live.push_back(stored::state_prefix(job, stored::read_head(key, value).version()));
    return true;
  });
  std::sort(live.begin(), live.end());
  Batch batch;
  std::string from(stored::kStatePrefix);
  for (const std::string& prefix : live) {
    batch.erase_range(from, prefix);
    from = stored::end_of(prefix);
  }
  batch.erase_range(from, stored::end_of(std::string(stored::kStatePrefix)));
  batch.put(std::string(stored::kFormatKey), std::string(stored::kFormat));
  store_.write(batch, true);
}

void CheckpointWriter::commit(const Commit& commit) {
  const std::string& job = commit.record.name;
  CHECK(!job.empty() && job.find('/') == std::string::npos);
  Batch batch;
  if (commit.state) {
    const ShardState& state = *commit.state;
    const auto before = stored_head(store_, job);
    check_commit(commit, before);
    // A version has one value for ever: where HEAD is there already, only what is beside the tensors changes.
    if (!before || before->version() != state.version) {
      ChunkWriter chunks(store_);
      for (size_t i = 0; i < state.tensors.size(); ++i) {
        chunks.put(job, state.version, i, 0, state.parameters[i]);
        for (size_t m = 0; m < state.moments[i].size(); ++m) {
          chunks.put(job, state.version, i, m + 1, state.moments[i][m]);
        }
      }
      chunks.flush();
      if (before) stored::for_each_chunk(job, *before, [&](std::string key) { batch.erase(std::move(key)); });
    }
    batch.put(stored::head_key(job), stored::write_head(commit.head, state));
  }
  batch.put(stored::record_key(job), stored::write_record(commit.record));
  for (const MetricRecord& metric : commit.metrics) {
    batch.put(stored::metric_key(job, metric.sequence), metric.line);
  }
  store_.write(batch, true);
}

}  // namespace coppice
