#include "worker/adapter_cache.h"

#include "common/base/check.h"

namespace coppice {
namespace {

constexpr int64_t kSlotsPerLayer = 7;     // kQuery to kDown
constexpr int64_t kAlignmentFloats = 16;  // tensors begin at cache lines

// One row that holds every tensor of `numbers`, and the part of it that is each tensor's.
Rows make_parts(Backend& backend, const MethodConfig& method, const std::vector<int64_t>& numbers,
                std::vector<Matrix>& parts) {
  std::vector<int64_t> begins;
  int64_t size = 0;
  for (int64_t number : numbers) {
    begins.push_back(size);
    const int64_t elements = element_count(method.tensors()[size_t(number)].shape);
    size += (elements + kAlignmentFloats - 1) / kAlignmentFloats * kAlignmentFloats;
  }
  Rows all = make_zero_rows(backend, 1, size);
  parts.assign(method.tensors().size(), Matrix{});
  for (size_t i = 0; i < numbers.size(); ++i) {
    const Shape& shape = method.tensors()[size_t(numbers[i])].shape;
    const int64_t rows = shape.size() == 2 ? shape[0] : 1, cols = shape.back();
    Matrix part = all.matrix.column_range(begins[i], rows * cols);
    part.stride = part.cols;
    parts[size_t(numbers[i])] = part.reshaped(rows, cols);
  }
  return all;
}

}  // namespace

int64_t module_number(const BackboneConfig& config, const Module& module) {
  switch (module.slot) {
    case Slot::kEmbedding:
      return 0;
    case Slot::kHead:
      return 1 + kSlotsPerLayer * config.layers;
    default:
      return 1 + kSlotsPerLayer * module.layer + int64_t(module.slot);
  }
}

void CachedAdapter::follow(Backend& backend, const Segment& segment) {
  const std::pair<int64_t, int64_t> now{segment.step, segment.micro_batch};
  CHECK(training && now > last_micro_batch);
  last_micro_batch = now;
  if (slots.buffer.empty()) slots = make_parts(backend, *adapter.config, numbers, adapter.gradients);
}

void CachedAdapter::drop_slots() {
  adapter.gradients.assign(adapter.gradients.size(), Matrix{});
  slots = {};
}

void AdapterCache::set(const std::string& job, std::shared_ptr<const MethodConfig> method, uint64_t seed,
                       int64_t version, std::span<const NumberedView> tensors, bool training) {
  std::shared_ptr<CachedAdapter> cached = find(job);
  // The memory of the version before is used again, unless a pack still reads it (owners: here and the map).
  const bool again =
      cached && cached.use_count() == 2 && cached->adapter.config == method && cached->training == training;
  if (again) {
    cached->drop_slots();
  } else {
    cached = make(method, training);
    jobs_[job] = cached;
  }
  cached->adapter.seed = seed;
  cached->version = version;
  cached->last_micro_batch = {-1, -1};
  CHECK(tensors.size() == cached->numbers.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t number = cached->numbers[i];
    CHECK(tensors[i].number == number);
    CHECK(tensors[i].tensor.shape == method->tensors()[size_t(number)].shape);
    backend_.upload(tensors[i].tensor.bytes.data(), cached->adapter.tensors[size_t(number)]);
  }
}

std::shared_ptr<CachedAdapter> AdapterCache::make(std::shared_ptr<const MethodConfig> method,
                                                  bool training) const {
  auto cached = std::make_shared<CachedAdapter>();
  for (size_t i = 0; i < method->tensors().size(); ++i)
    if (lives_here_(method->tensors()[i])) cached->numbers.push_back(int64_t(i));
  cached->training = training;
  cached->wants = ask(*method);
  cached->values = make_parts(backend_, *method, cached->numbers, cached->adapter.tensors);
  cached->adapter.gradients.assign(method->tensors().size(), Matrix{});
  cached->adapter.config = std::move(method);
  return cached;
}

std::shared_ptr<const HookTable> AdapterCache::ask(const MethodConfig& config) const {
  const Method& method = config.method();
  auto table = std::make_shared<HookTable>();
  for (const Module& module : backbone_modules(config_)) {
    table->input.push_back(config.hooks().projection_input && method.wants_input(config, module));
    table->output.push_back(config.hooks().projection_output && method.wants_output(config, module));
  }
  for (int64_t layer = 0; layer < config_.layers; ++layer)
    for (Sublayer sublayer : {Sublayer::kAttention, Sublayer::kMlp})
      table->sublayer.push_back(config.hooks().sublayer_output &&
                                method.wants_sublayer(config, layer, sublayer));
  return table;
}

std::vector<NumberedTensor> AdapterCache::take_gradients(const std::string& job) {
  std::vector<NumberedTensor> taken;
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return taken;
  CachedAdapter& cached = *found->second;
  CHECK(cached.training);
  for (int64_t number : cached.numbers) {
    NumberedTensor gradient{number, Tensor(cached.adapter.config->tensors()[size_t(number)].shape)};
    const Matrix slot = cached.adapter.gradients[size_t(number)];
    if (!slot.empty()) backend_.download(slot, gradient.tensor.values.data());
    taken.push_back(std::move(gradient));
  }
  cached.drop_slots();
  cached.last_micro_batch = {-1, -1};
  return taken;
}

std::shared_ptr<CachedAdapter> AdapterCache::find(const std::string& job) const {
  const auto found = jobs_.find(job);
  return found == jobs_.end() ? nullptr : found->second;
}

size_t AdapterCache::bytes() const {
  size_t bytes = 0;
  for (const auto& [job, cached] : jobs_)
    bytes += cached->values.buffer.bytes() + cached->slots.buffer.bytes();
  return bytes;
}

}  // namespace coppice
