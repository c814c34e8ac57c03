#include "worker/messages.h"

#include <cstdint>
#include <cstring>

#include "common/base/error.h"

namespace coppice {
namespace {

void put_segment(const Segment& segment, proto::PackSegment& out) {
  out.set_job(segment.job);
  out.set_version(segment.version);
  out.set_step(segment.step);
  out.set_micro_batch(segment.micro_batch);
  out.set_training(segment.training);
  out.set_lowest_layer(segment.lowest_layer);
  out.set_row(segment.row);
  out.set_rows(segment.rows);
  for (const PackSequence& sequence : segment.sequences) {
    auto* entry = out.add_sequences();
    entry->set_row(sequence.row);
    entry->set_virtual_rows(sequence.virtual_rows);
    entry->set_tokens(sequence.tokens);
    entry->set_in_step(sequence.in_step);
    entry->set_first_position(sequence.first_position);
  }
}

constexpr int64_t kMostRows = INT32_MAX;  // of a pack: rows are named by 32 bits

// Sequences and segments follow each other without hole: what every operator relies on.
Segment get_segment(const proto::PackSegment& in, int64_t& next_row) {
  Segment segment;
  segment.job = in.job();
  segment.version = in.version();
  segment.step = in.step();
  segment.micro_batch = in.micro_batch();
  segment.training = in.training();
  segment.lowest_layer = in.lowest_layer();
  segment.row = in.row();
  segment.rows = in.rows();
  if (segment.row != next_row)
    throw invalid("pack: segment of job {} begins at row {}, not {}", segment.job, segment.row, next_row);
  for (const auto& entry : in.sequences()) {
    const PackSequence sequence{entry.row(), entry.virtual_rows(), entry.tokens(), entry.in_step(),
                                entry.first_position()};
    if (sequence.row != next_row || sequence.virtual_rows < 0 || sequence.virtual_rows > kMostRows ||
        sequence.tokens < 1 || sequence.tokens > kMostRows || sequence.rows() > kMostRows - next_row) {
      throw invalid("pack: a sequence of job {} does not follow the one before it", segment.job);
    }
    next_row += sequence.rows();
    segment.sequences.push_back(sequence);
  }
  if (next_row - segment.row != segment.rows)
    throw invalid("pack: segment of job {} is not as long as its sequences", segment.job);
  return segment;
}

// Without overflow, whatever the sizes are: nothing larger than what has arrived is a shape of it.
bool fits(const Shape& shape, size_t bytes) {
  int64_t left = int64_t(bytes / sizeof(float));
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) return false;
    empty = empty || size == 0;
  }
  if (empty) return bytes == 0;
  for (const int64_t size : shape) {
    if (left % size != 0) return false;
    left /= size;
  }
  return left == 1 && bytes % sizeof(float) == 0;
}

}  // namespace

proto::PackPlan to_proto(const PackPlan& plan) {
  proto::PackPlan out;
  out.set_id(plan.pack.id);
  out.set_checkpointing(plan.pack.checkpointing);
  out.set_rows(plan.pack.rows);
  for (size_t i = 0; i < plan.pack.segments.size(); ++i) {
    auto& segment = *out.add_segments();
    put_segment(plan.pack.segments[i], segment);
    segment.set_ends_step(plan.ends_step[i]);
    segment.set_adapter_here(plan.adapter_here[i]);
  }
  out.mutable_tokens()->Add(plan.tokens.begin(), plan.tokens.end());
  out.mutable_target_rows()->Add(plan.targets.rows.begin(), plan.targets.rows.end());
  out.mutable_targets()->Add(plan.targets.targets.begin(), plan.targets.targets.end());
  out.mutable_target_weights()->Add(plan.targets.weights.begin(), plan.targets.weights.end());
  return out;
}

PackPlan from_proto(const proto::PackPlan& in) {
  PackPlan plan;
  plan.pack.id = in.id();
  plan.pack.checkpointing = in.checkpointing();
  plan.pack.rows = in.rows();
  int64_t next_row = 0;
  for (const auto& segment : in.segments()) {
    plan.pack.segments.push_back(get_segment(segment, next_row));
    const auto& segments = plan.pack.segments;
    if (segments.size() > 1 && segments.back().lowest_layer < segments[segments.size() - 2].lowest_layer)
      throw invalid("pack {}: its segments are not ordered by how deep their backward reaches", in.id());
    plan.ends_step.push_back(segment.ends_step());
    plan.adapter_here.push_back(segment.adapter_here());
  }
  if (next_row != plan.pack.rows)
    throw invalid("pack {}: {} rows are announced, {} are in it", in.id(), in.rows(), next_row);
  plan.tokens.assign(in.tokens().begin(), in.tokens().end());
  plan.targets.rows.assign(in.target_rows().begin(), in.target_rows().end());
  plan.targets.targets.assign(in.targets().begin(), in.targets().end());
  plan.targets.weights.assign(in.target_weights().begin(), in.target_weights().end());
  const size_t targets = plan.targets.rows.size();
  if (plan.targets.targets.size() != targets || plan.targets.weights.size() != targets) {
    throw invalid("pack {}: its targets are not as many as its target rows", in.id());
  }
  if (!plan.tokens.empty() && int64_t(plan.tokens.size()) != plan.pack.rows) {
    throw invalid("pack {}: it has {} rows, but tokens for {}", in.id(), plan.pack.rows, plan.tokens.size());
  }
  int32_t before = -1;
  for (const int32_t row : plan.targets.rows) {
    if (row <= before || row >= plan.pack.rows)
      throw invalid("pack {}: target row {} follows {} in {} rows", in.id(), row, before, plan.pack.rows);
    before = row;
  }
  return plan;
}

void put_tensors(std::vector<NumberedTensor> tensors, proto::AdapterTensors& header, Message& message) {
  for (NumberedTensor& tensor : tensors) {
    auto* entry = header.add_tensors();
    entry->set_number(tensor.number);
    entry->mutable_shape()->Add(tensor.tensor.shape.begin(), tensor.tensor.shape.end());
    message.payload.push_back(std::make_unique<TensorPayload>(std::move(tensor.tensor)));
  }
}

std::vector<NumberedView> view_tensors(const proto::AdapterTensors& header, const Message& message) {
  if (size_t(header.tensors_size()) != message.payload.size()) {
    throw invalid("tensors of job {}: {} are announced, {} arrived", header.job(), header.tensors_size(),
                  message.payload.size());
  }
  std::vector<NumberedView> out;
  for (int i = 0; i < header.tensors_size(); ++i) {
    const auto& entry = header.tensors(i);
    const Payload& payload = *message.payload[size_t(i)];
    const Shape shape(entry.shape().begin(), entry.shape().end());
    if (!fits(shape, payload.bytes())) {
      throw invalid("tensor {} of job {}: shape {} does not fit {} bytes", entry.number(), header.job(),
                    shape_string(shape), payload.bytes());
    }
    out.push_back({entry.number(), {DType::kF32, shape, {payload.data(), payload.bytes()}}});
  }
  return out;
}

std::vector<NumberedTensor> get_tensors(const proto::AdapterTensors& header, const Message& message) {
  std::vector<NumberedTensor> out;
  for (NumberedView& view : view_tensors(header, message)) {
    NumberedTensor& tensor = out.emplace_back();
    tensor.number = view.number;
    if (auto* const local = dynamic_cast<TensorPayload*>(message.payload[out.size() - 1].get())) {
      tensor.tensor.shape = std::move(view.tensor.shape);
      tensor.tensor.values = local->release();
    } else {
      tensor.tensor = to_f32(view.tensor);
    }
  }
  return out;
}

}  // namespace coppice
