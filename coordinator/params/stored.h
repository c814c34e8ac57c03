#pragma once
// Keys and values of a run folder's store (proto/README.md), and the way between them and the structs of
// checkpoint.h. What comes out of a store is outside bytes: a value that does not hold together throws
// kInvalid naming its key. Private to this folder. Thread: any.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/error.h"
#include "coordinator/params/checkpoint.h"
#include "proto/store.pb.h"

namespace coppice::stored {

constexpr size_t kChunkBytes = 8 << 20;  // the largest value; part of the format
constexpr std::string_view kFormatKey = "format";
constexpr std::string_view kFormat = "1";
constexpr std::string_view kRecordPrefix = "record/", kHeadPrefix = "head/", kStatePrefix = "state/";

std::string record_key(const std::string& job);
std::string head_key(const std::string& job);
std::string metric_prefix(const std::string& job);
std::string metric_key(const std::string& job, int64_t sequence);
std::string job_prefix(const std::string& job);  // of its state, all versions
std::string state_prefix(const std::string& job, int64_t version);
// tensor: its number in the manifest. part 0: the parameter, 1...: its moments; chunk: from byte chunk *
// kChunkBytes on.
std::string chunk_key(const std::string& job, int64_t version, int64_t tensor, size_t part, size_t chunk);
std::string end_of(std::string prefix);  // the first key after all that begin with prefix

Error damaged(std::string_view key, std::string_view why);

std::string write_record(const JobRecord& record);
JobRecord read_record(std::string_view key, std::string_view bytes);
// tensors: where they are stored says each; moments: of each how many.
std::string write_head(const JobHead& head, const std::vector<ShardTensor>& tensors,
                       const std::vector<int>& moments);
// Numbers, shapes, moments and shards make sense.
proto::StoredHead read_head(std::string_view key, std::string_view bytes);
JobHead to_head(const proto::StoredHead& head);
ShardTensor to_tensor(const proto::StoredTensor& tensor);
int64_t read_metric_key(std::string_view key, std::string_view prefix);

size_t tensor_bytes(const proto::StoredTensor& tensor);  // of one part, of a head that was read
// All chunk keys of a state that are in the store of its head, in order.
void for_each_chunk(const std::string& job, const proto::StoredHead& head,
                    const std::function<void(std::string key)>& visit);

}  // namespace coppice::stored
