#include "coordinator/params/stored.h"

#include <climits>

#include "common/base/error.h"

namespace coppice::stored {
namespace {

constexpr int64_t kMostElements = int64_t(1) << 40;
constexpr int64_t kMostNumber = 0xffffffff;  // what a key has digits for
constexpr int kMostMoments = 8;
constexpr int kMostShards = 1 << 16;

template <typename Stored>
Stored parse(std::string_view key, std::string_view bytes) {
  Stored stored;
  if (bytes.size() > size_t(INT_MAX) || !stored.ParseFromArray(bytes.data(), int(bytes.size()))) {
    throw damaged(key, "it cannot be parsed");
  }
  return stored;
}

void check_tensor(std::string_view key, const proto::StoredTensor& tensor) {
  int64_t elements = 1;
  for (const int64_t size : tensor.shape()) {
    if (size < 0 || (size > 0 && elements > kMostElements / size)) {
      throw damaged(
          key, fmt::format("tensor {} has the shape [{}]", tensor.name(), fmt::join(tensor.shape(), ", ")));
    }
    elements *= size;
  }
  if (tensor.number() < 0 || tensor.number() > kMostNumber) {
    throw damaged(key, fmt::format("tensor {} has the number {}", tensor.name(), tensor.number()));
  }
  if (tensor.shard() < 0 || tensor.shard() > kMostShards) {
    throw damaged(key, fmt::format("tensor {} is in shard {}", tensor.name(), tensor.shard()));
  }
  if (tensor.moments() < 0 || tensor.moments() > kMostMoments) {
    throw damaged(key, fmt::format("tensor {} has {} moments", tensor.name(), tensor.moments()));
  }
}

}  // namespace

// Numbers are written so that their order as bytes is their order.
std::string record_key(const std::string& job) {
  return fmt::format("{}{}", kRecordPrefix, job);
}
std::string head_key(const std::string& job) {
  return fmt::format("{}{}", kHeadPrefix, job);
}
std::string metric_prefix(const std::string& job) {
  return fmt::format("metric/{}/", job);
}
std::string metric_key(const std::string& job, int64_t sequence) {
  return fmt::format("metric/{}/{:016x}", job, sequence);
}
std::string job_prefix(const std::string& job) {
  return fmt::format("{}{}/", kStatePrefix, job);
}
std::string state_prefix(const std::string& job, int64_t version) {
  return fmt::format("{}{:016x}/", job_prefix(job), version);
}
std::string chunk_key(const std::string& job, int64_t version, int64_t tensor, size_t part, size_t chunk) {
  return fmt::format("{}{:08x}/{:x}/{:08x}", state_prefix(job, version), tensor, part, chunk);
}
std::string end_of(std::string prefix) {
  ++prefix.back();  // a slash
  return prefix;
}

Error damaged(std::string_view key, std::string_view why) {
  return invalid("store: the value of {} is damaged: {}", key, why);
}

std::string write_record(const JobRecord& record) {
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
  return stored.SerializeAsString();
}

JobRecord read_record(std::string_view key, std::string_view bytes) {
  const auto stored = parse<proto::StoredRecord>(key, bytes);
  if (stored.name() != key.substr(kRecordPrefix.size())) throw damaged(key, "it is of job " + stored.name());
  if (stored.state() < 0 || stored.state() > int(JobState::kCancelled)) {
    throw damaged(key, fmt::format("state is {}", stored.state()));
  }
  JobRecord record;
  record.name = stored.name();
  record.ordinal = stored.ordinal();
  record.keys = parse_json(stored.keys(), fmt::format("store: keys in {}", key));
  record.method = parse_json(stored.method(), fmt::format("store: method in {}", key));
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

std::string write_head(const JobHead& head, const std::vector<ShardTensor>& tensors,
                       const std::vector<int>& moments) {
  proto::StoredHead stored;
  stored.set_version(head.version);
  stored.set_tokens(head.tokens);
  stored.set_loss(head.loss);
  stored.set_eval_loss(head.eval_loss);
  stored.set_evaluated(head.evaluated);
  stored.set_seconds(head.seconds);
  for (size_t i = 0; i < tensors.size(); ++i) {
    auto* tensor = stored.add_tensors();
    tensor->set_number(tensors[i].number);
    tensor->set_name(tensors[i].name);
    tensor->mutable_shape()->Add(tensors[i].shape.begin(), tensors[i].shape.end());
    tensor->set_moments(moments[i]);
    tensor->set_shard(tensors[i].shard);
  }
  return stored.SerializeAsString();
}

proto::StoredHead read_head(std::string_view key, std::string_view bytes) {
  auto stored = parse<proto::StoredHead>(key, bytes);
  if (stored.version() < 0) throw damaged(key, fmt::format("version is {}", stored.version()));
  for (const auto& tensor : stored.tensors()) check_tensor(key, tensor);
  return stored;
}

JobHead to_head(const proto::StoredHead& stored) {
  JobHead head;
  head.version = stored.version();
  head.tokens = stored.tokens();
  head.loss = stored.loss();
  head.eval_loss = stored.eval_loss();
  head.evaluated = stored.evaluated();
  head.seconds = stored.seconds();
  return head;
}

ShardTensor to_tensor(const proto::StoredTensor& stored) {
  return {stored.number(), stored.name(), Shape(stored.shape().begin(), stored.shape().end()),
          stored.shard()};
}

int64_t read_metric_key(std::string_view key, std::string_view prefix) {
  const std::string_view digits = key.substr(prefix.size());
  uint64_t sequence = 0;
  for (const char c : digits) {
    const bool decimal = c >= '0' && c <= '9';
    if (!decimal && !(c >= 'a' && c <= 'f')) throw invalid("store: {} is no key of a metric", key);
    sequence = sequence << 4 | uint64_t(decimal ? c - '0' : c - 'a' + 10);
  }
  if (digits.size() != 16 || sequence > uint64_t(INT64_MAX))
    throw invalid("store: {} is no key of a metric", key);
  return int64_t(sequence);
}

size_t tensor_bytes(const proto::StoredTensor& tensor) {
  size_t bytes = sizeof(float);
  for (const int64_t size : tensor.shape()) bytes *= size_t(size);
  return bytes;
}

void for_each_chunk(const std::string& job, const proto::StoredHead& head,
                    const std::function<void(std::string key)>& visit) {
  for (const auto& tensor : head.tensors()) {
    if (tensor.shard() != 0) continue;
    const size_t bytes = tensor_bytes(tensor);
    for (int part = 0; part <= tensor.moments(); ++part) {
      for (size_t chunk = 0; chunk * kChunkBytes < bytes; ++chunk) {
        visit(chunk_key(job, head.version(), tensor.number(), size_t(part), chunk));
      }
    }
  }
}

}  // namespace coppice::stored
