#include "coordinator/params/shard.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "common/base/error.h"

namespace coppice {
namespace {

Matrix as_row(Tensor& tensor) {
  const auto size = int64_t(tensor.values.size());
  return {reinterpret_cast<std::byte*>(tensor.values.data()), DType::kF32, 1, size, size};
}

// As transformers.Trainer (get_decay_parameter_names): biases are left out of the decay.
double weight_decay(const TrainArguments& train, const ShardTensor& tensor) {
  return tensor.name.ends_with("bias") ? 0 : train.weight_decay;
}

}  // namespace

size_t moment_count(const TrainArguments& train) {
  if (train.optim == Optimizer::kAdamW) return 2;
  return train.momentum > 0 ? 1 : 0;
}

struct Shard::Adapter {
  TrainArguments train;
  ShardState state;
  std::map<int64_t, size_t> place;  // of a tensor's number in state
  std::vector<std::optional<Tensor>> gradients;
  size_t missing = 0;  // gradients
};

// The masters are host tensors; the backend's updates work on them where they are.
Shard::Shard(Backend& backend) : backend_(backend) {}
Shard::~Shard() = default;

void Shard::add(const std::string& job, const TrainArguments& train, ShardState state) {
  auto adapter = std::make_unique<Adapter>();
  adapter->train = train;
  const size_t count = state.tensors.size();
  if (state.parameters.size() != count) {
    throw invalid("job {}: {} tensors are announced, {} are there", job, count, state.parameters.size());
  }
  const size_t moments = moment_count(train);
  if (state.moments.empty()) state.moments.resize(count);
  if (state.moments.size() != count)
    throw invalid("job {}: {} tensors are announced, moments of {} are there", job, count,
                  state.moments.size());
  for (size_t i = 0; i < count; ++i) {
    const ShardTensor& tensor = state.tensors[i];
    if (state.parameters[i].shape != tensor.shape) {
      throw invalid("job {}: tensor {} has the shape {}, not {}", job, tensor.name,
                    shape_string(state.parameters[i].shape), shape_string(tensor.shape));
    }
    if (state.moments[i].empty()) state.moments[i].assign(moments, Tensor(tensor.shape));
    if (state.moments[i].size() != moments) {
      throw invalid("job {}: tensor {} has {} moments, its optimizer needs {}", job, tensor.name,
                    state.moments[i].size(), moments);
    }
    for (const Tensor& moment : state.moments[i]) {
      if (moment.shape != tensor.shape) {
        throw invalid("job {}: a moment of tensor {} has the shape {}, not {}", job, tensor.name,
                      shape_string(moment.shape), shape_string(tensor.shape));
      }
    }
    if (!adapter->place.emplace(tensor.number, i).second)
      throw invalid("job {}: two tensors have the number {}", job, tensor.number);
  }
  adapter->state = std::move(state);
  adapter->gradients.resize(count);
  adapter->missing = count;
  adapters_[job] = std::move(adapter);
}

void Shard::remove(const std::string& job) {
  adapters_.erase(job);
}
bool Shard::has(const std::string& job) const {
  return adapters_.contains(job);
}
int64_t Shard::version(const std::string& job) const {
  return find(job).state.version;
}

Shard::Adapter& Shard::find(const std::string& job) const {
  const auto it = adapters_.find(job);
  if (it == adapters_.end()) throw not_found("job {} has no adapter here", job);
  return *it->second;
}

void Shard::push(const std::string& job, int64_t version, int64_t number, Tensor gradient) {
  Adapter& adapter = find(job);
  if (version != adapter.state.version) {
    throw invalid("job {}: a gradient is of version {}, the adapter is at {}", job, version,
                  adapter.state.version);
  }
  const auto place = adapter.place.find(number);
  if (place == adapter.place.end()) throw invalid("job {}: has no tensor {}", job, number);
  const ShardTensor& tensor = adapter.state.tensors[place->second];
  auto& slot = adapter.gradients[place->second];
  if (slot)
    throw invalid("job {}: tensor {} has its gradient of version {} already", job, tensor.name, version);
  if (gradient.shape != tensor.shape) {
    throw invalid("job {}: the gradient of {} has the shape {}, not {}", job, tensor.name,
                  shape_string(gradient.shape), shape_string(tensor.shape));
  }
  slot = std::move(gradient);
  --adapter.missing;
}

bool Shard::pushed(const std::string& job, int64_t number) const {
  const Adapter& adapter = find(job);
  const auto place = adapter.place.find(number);
  return place != adapter.place.end() && adapter.gradients[place->second].has_value();
}

bool Shard::complete(const std::string& job) const {
  return find(job).missing == 0;
}

std::vector<double> Shard::squared_norms(const std::string& job) const {
  std::vector<double> norms;
  for (auto& gradient : find(job).gradients)
    norms.push_back(gradient ? backend_.squared_norm(as_row(*gradient)) : 0);
  return norms;
}

void Shard::update(const std::string& job, const UpdateStep& step) {
  Adapter& adapter = find(job);
  if (adapter.missing > 0) throw invalid("job {}: {} gradients are missing", job, adapter.missing);
  ShardState& state = adapter.state;
  const TrainArguments& train = adapter.train;
  const int64_t number = state.version + 1;
  for (size_t i = 0; i < state.tensors.size(); ++i) {
    const Matrix parameter = as_row(state.parameters[i]), gradient = as_row(*adapter.gradients[i]);
    const double decay = weight_decay(train, state.tensors[i]);
    auto& moments = state.moments[i];
    if (train.optim == Optimizer::kAdamW) {
      backend_.adamw({step.learning_rate, train.adam_beta1, train.adam_beta2, train.adam_epsilon, decay,
                      step.gradient_factor, number},
                     parameter, gradient, as_row(moments[0]), as_row(moments[1]));
    } else {
      backend_.sgd({step.learning_rate, train.momentum, decay, step.gradient_factor, number}, parameter,
                   gradient, moments.empty() ? Matrix{} : as_row(moments[0]));
    }
  }
  backend_.wait();
  state.version = number;
  discard_gradients(job);
}

void Shard::discard_gradients(const std::string& job) {
  Adapter& adapter = find(job);
  for (auto& gradient : adapter.gradients) gradient.reset();
  adapter.missing = adapter.gradients.size();
}

const Tensor& Shard::parameter(const std::string& job, int64_t number) const {
  const Adapter& adapter = find(job);
  const auto place = adapter.place.find(number);
  if (place == adapter.place.end()) throw invalid("job {}: has no tensor {}", job, number);
  return adapter.state.parameters[place->second];
}

ShardState Shard::state(const std::string& job) const {
  return find(job).state;
}

size_t Shard::bytes() const {
  size_t bytes = 0;
  for (const auto& [job, adapter] : adapters_) {
    for (const Tensor& tensor : adapter->state.parameters) bytes += tensor.values.size() * sizeof(float);
    for (const auto& moments : adapter->state.moments) {
      for (const Tensor& tensor : moments) bytes += tensor.values.size() * sizeof(float);
    }
  }
  return bytes;
}

}  // namespace coppice
