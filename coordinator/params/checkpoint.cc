#include "coordinator/params/checkpoint.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "common/base/check.h"
#include "common/base/error.h"
#include "coordinator/params/chunks.h"
#include "coordinator/params/stored.h"

namespace coppice {
namespace {

constexpr int kTries = 20;  // of reading a state whose writer moves on meanwhile

std::optional<proto::StoredHead> stored_head(const KvReader& store, const std::string& job) {
  const std::string key = stored::head_key(job);
  const auto bytes = store.get(key);
  if (!bytes) return std::nullopt;
  return stored::read_head(key, *bytes);
}

// A shard does not have what HEAD names: damage, or HEAD has moved on since it was read.
struct LeftByHead {
  Error error;
};

// A run that begins removes stores of shards that no HEAD names any more.
KvReader& open_shard(const ShardStores& shards, int shard) {
  try {
    return shards(shard);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kNotFound) throw LeftByHead{error};
    throw;
  }
}

// Of the version that a commit moves HEAD to.
struct Described {
  std::vector<ShardTensor> tensors;
  std::vector<int> moments;
};

Described describe(const ShardState& state) {
  CHECK(state.moments.size() == state.tensors.size());
  Described described{state.tensors, {}};
  for (ShardTensor& tensor : described.tensors) tensor.shard = 0;
  for (const auto& moments : state.moments) described.moments.push_back(int(moments.size()));
  return described;
}

Described describe(const StoredElsewhere& elsewhere) {
  CHECK(elsewhere.moments.size() == elsewhere.tensors.size());
  for (const ShardTensor& tensor : elsewhere.tensors) CHECK(tensor.shard >= 1);
  return {elsewhere.tensors, elsewhere.moments};
}

Described describe(const proto::StoredHead& head) {
  Described described;
  for (const auto& tensor : head.tensors()) {
    described.tensors.push_back(stored::to_tensor(tensor));
    described.moments.push_back(tensor.moments());
  }
  return described;
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

CheckpointReader::CheckpointReader(KvReader& store, ShardStores shards)
    : store_(store), shards_(std::move(shards)) {
  stored::check_format(store_);
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

// Beside a live run HEAD moves on, and what it has left is given back: by its own store (kBusy) or by that of
// a shard, where it is then missing. First HEAD is read again, then the shards: they have whatever it names.
ShardState CheckpointReader::state(const std::string& job) const {
  for (int i = 1;; ++i) {
    try {
      return read_state(job, i > 1);
    } catch (const LeftByHead& left) {
      if (i == kTries) throw left.error;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kBusy || i == kTries) throw;
    }
    store_.refresh();
  }
}

ShardState CheckpointReader::read_state(const std::string& job, bool again) const {
  const auto head = stored_head(store_, job);
  if (!head) throw not_found("store: job {} has no committed state", job);
  std::map<int, KvReader*> stores = {{0, &store_}};
  const auto store_of = [&](const proto::StoredTensor& tensor) -> KvReader& {
    auto& store = stores[tensor.shard()];
    if (store != nullptr) return *store;
    if (!shards_) {
      throw invalid("store: tensor {} of job {} is in shard {}, and the stores of shards are not at hand",
                    tensor.name(), job, tensor.shard());
    }
    store = &open_shard(shards_, tensor.shard());
    if (again) store->refresh();
    stored::check_format(*store);
    return *store;
  };
  ShardState state;
  state.version = head->version();
  for (const auto& tensor : head->tensors()) {
    const KvReader& store = store_of(tensor);
    const auto read = [&](int part) {
      std::string missing;
      auto values = stored::read_part(store, job, state.version, tensor, size_t(part), missing);
      if (values) return std::move(*values);
      if (tensor.shard() == 0) throw invalid("store: {} is missing", missing);
      throw LeftByHead{invalid("store: {} is missing in shard {}", missing, tensor.shard())};
    };
    state.tensors.push_back(stored::to_tensor(tensor));
    state.parameters.push_back(read(0));
    auto& moments = state.moments.emplace_back();
    for (int part = 1; part <= tensor.moments(); ++part) moments.push_back(read(part));
  }
  return state;
}

std::vector<int> CheckpointReader::shards() const {
  std::set<int> shards;
  store_.scan(stored::kHeadPrefix, [&](std::string_view key, std::string_view value) {
    const proto::StoredHead head = stored::read_head(key, value);
    for (const auto& tensor : head.tensors()) shards.insert(tensor.shard());
    return true;
  });
  shards.erase(0);
  return {shards.begin(), shards.end()};
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
      if (tensor.shard() != 0) continue;
      bytes += stored::tensor_bytes(tensor) * size_t(1 + tensor.moments());
    }
    return count(key, value);
  });
  return bytes;
}

// A crash leaves chunks of a version that no HEAD names. Everything between the states that HEADs do name
// goes, without being read.
CheckpointWriter::CheckpointWriter(KvStore& store) : store_(store) {
  stored::check_format(store_);
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

void CheckpointWriter::commit(const Commit& commit, bool sync) {
  const std::string& job = commit.record.name;
  CHECK(!job.empty() && job.find('/') == std::string::npos);
  CHECK(!commit.state || !commit.elsewhere);
  Batch batch;
  if (commit.state || commit.elsewhere) {
    const int64_t version = commit.state ? commit.state->version : commit.elsewhere->version;
    CHECK(version == commit.head.version);
    const auto before = stored_head(store_, job);
    if (before && before->version() > version) {
      throw failed("job {}: HEAD is at version {}, a commit of {} came after it", job, before->version(),
                   version);
    }
    Described now = commit.state ? describe(*commit.state) : describe(*commit.elsewhere);
    // A version has one value for ever: where HEAD is there already, only what is beside the tensors changes.
    if (before && before->version() == version) {
      now = describe(*before);
    } else {
      if (commit.state) {
        stored::ChunkWriter chunks(store_);
        chunks.put(job, *commit.state);
        chunks.flush();
      }
      if (before) stored::for_each_chunk(job, *before, [&](std::string key) { batch.erase(std::move(key)); });
    }
    batch.put(stored::head_key(job), stored::write_head(commit.head, now.tensors, now.moments));
  }
  batch.put(stored::record_key(job), stored::write_record(commit.record));
  for (const MetricRecord& metric : commit.metrics) {
    batch.put(stored::metric_key(job, metric.sequence), metric.line);
  }
  store_.write(batch, sync);
}

}  // namespace coppice
