#include "coordinator/params/shard_worker.h"

#include <algorithm>
#include <utility>

#include "common/base/error.h"
#include "common/io/json.h"
#include "coordinator/jobs/train_arguments.h"
#include "coordinator/params/shard_checkpoint.h"
#include "coordinator/params/write_thread.h"
#include "worker/messages.h"

namespace coppice {
namespace {

constexpr int kMostMoments = 8;
constexpr size_t kMostKeptBytes = size_t(64) << 20;  // of blocks in which values have left

// Each tensor's values, then its moments: as many payload blocks.
ShardState get_state(const proto::AddAdapter& header, const Message& message) {
  proto::AdapterTensors blocks;
  blocks.set_job(header.job());
  for (const auto& tensor : header.tensors()) {
    if (tensor.moments() < 0 || tensor.moments() > kMostMoments) {
      throw invalid("job {}: tensor {} is announced with {} moments", header.job(), tensor.name(),
                    tensor.moments());
    }
    for (int part = 0; part <= tensor.moments(); ++part) {
      auto* block = blocks.add_tensors();
      block->set_number(tensor.number());
      *block->mutable_shape() = tensor.shape();
    }
  }
  auto values = get_tensors(blocks, message);
  auto next = values.begin();
  ShardState state;
  state.version = header.version();
  for (const auto& tensor : header.tensors()) {
    state.tensors.push_back({tensor.number(), tensor.name(), next->tensor.shape});
    state.parameters.push_back(std::move(next++->tensor));
    auto& moments = state.moments.emplace_back();
    for (int part = 0; part < tensor.moments(); ++part) moments.push_back(std::move(next++->tensor));
  }
  return state;
}

Matrix row_of(const std::byte* data, const Tensor& tensor) {
  const auto size = int64_t(tensor.values.size());
  return {const_cast<std::byte*>(data), DType::kF32, 1, size, size};
}

}  // namespace

class ShardWorker::Store {
 public:
  explicit Store(KvStore& store) : checkpoint_(store) {}

  void write(const std::string& job, ShardState state, std::function<void(double)> done) {
    const auto shared = std::make_shared<const ShardState>(std::move(state));
    thread_.submit([this, job, shared] { checkpoint_.write(job, *shared); }, std::move(done));
  }
  void release(const std::string& job, int64_t version) {
    thread_.submit([this, job, version] { checkpoint_.release(job, version); }, nullptr);
  }
  void keep_only(const std::string& job, int64_t version) {
    thread_.submit([this, job, version] { checkpoint_.keep_only(job, version); }, nullptr);
  }
  bool poll() { return thread_.poll(); }
  void drain() { thread_.drain(); }

 private:
  ShardCheckpoint checkpoint_;
  WriteThread thread_;  // last: ends before what it writes with
};

ShardWorker::ShardWorker(Transport& transport, Backend& backend, int coordinator, KvStore* store,
                         Trace* trace)
    : transport_(transport),
      backend_(backend),
      shard_(backend),
      coordinator_(coordinator),
      blocks_(BlockPool::create(kMostKeptBytes)),
      trace_(trace) {
  if (store != nullptr) store_ = std::make_unique<Store>(*store);
}
ShardWorker::~ShardWorker() = default;

bool ShardWorker::poll() {
  return store_ && store_->poll();
}
void ShardWorker::drain() {
  if (store_) store_->drain();
}

void ShardWorker::take(const Message& message) {
  switch (proto::MessageKind(message.kind)) {
    case proto::ADD_ADAPTER:
      return add(message);
    case proto::ROUTE_ADAPTER:
      return route(message);
    case proto::GRADIENTS:
      return gradients(message);
    case proto::UPDATE_ADAPTER:
      return update(message);
    case proto::COMMIT_ADAPTER:
      return commit(message);
    case proto::RELEASE_VERSIONS:
      return release(message);
    case proto::FETCH_PARAMETERS:
      return fetch(message);
    case proto::DROP_ADAPTER:
      return drop(message);
    default:
      throw invalid("message of kind {} from rank {} is not for a shard", message.kind, message.from);
  }
}

ShardWorker::Entry* ShardWorker::find(const std::string& job) {
  const auto it = jobs_.find(job);
  return it == jobs_.end() ? nullptr : &it->second;
}

ShardWorker::Store& ShardWorker::store(const std::string& job) {
  if (!store_) throw invalid("job {}: this shard has no store", job);
  return *store_;
}

void ShardWorker::add(const Message& message) {
  const auto header = read_header<proto::AddAdapter>(message);
  const std::string& job = header.job();
  if (job.empty() || job.find('/') != std::string::npos) {
    throw invalid("job \"{}\": a name without a slash is accepted", job);
  }
  if (header.version() < 0) throw invalid("job {}: version is {}", job, header.version());
  const std::string where = "train block of job " + job;
  const TrainArguments train = read_train_arguments(parse_json(header.train(), where), where);
  Entry entry{header.method(), header.seed(), {}, {}};
  for (const auto& tensor : header.tensors()) entry.tensors.push_back(tensor.number());
  shard_.add(job, train, get_state(header, message));
  jobs_[job] = std::move(entry);
  if (store_) store_->keep_only(job, header.version());
}

void ShardWorker::route(const Message& message) {
  const auto header = read_header<proto::RouteAdapter>(message);
  Entry* entry = find(header.job());
  if (entry == nullptr) return;
  std::vector<Route> routes;
  for (const auto& stage : header.stages()) {
    Route route{stage.rank(), {stage.tensors().begin(), stage.tensors().end()}};
    if (route.rank < 0 || route.rank >= transport_.size()) {
      throw invalid("job {}: a route goes to rank {} of {}", header.job(), route.rank, transport_.size());
    }
    for (const int64_t number : route.tensors) {
      if (std::find(entry->tensors.begin(), entry->tensors.end(), number) == entry->tensors.end()) {
        throw invalid("job {}: a route names tensor {}, which is not in this shard", header.job(), number);
      }
    }
    routes.push_back(std::move(route));
  }
  entry->routes = std::move(routes);
  shard_.discard_gradients(header.job());
  publish(header.job());
}

void ShardWorker::publish(const std::string& job) {
  const double begin = steady_seconds();
  const Entry& entry = jobs_.at(job);
  for (const Route& route : entry.routes) {
    send_tensors(route.rank, proto::PUBLISH, job, entry, route.tensors);
  }
  note("publish", begin, job);
}

void ShardWorker::note(const char* name, double begin, const std::string& job) {
  if (trace_ != nullptr) trace_->add(name, begin, steady_seconds(), 0, job);
}

void ShardWorker::send_tensors(int to, proto::MessageKind kind, const std::string& job, const Entry& entry,
                               const std::vector<int64_t>& tensors) {
  proto::AdapterTensors header;
  header.set_job(job);
  header.set_version(shard_.version(job));
  if (kind == proto::PUBLISH) {
    header.set_method(entry.method);
    header.set_seed(entry.seed);
    header.set_training(true);
  }
  Message message;
  std::vector<UnaryItem> copies;
  for (const int64_t number : tensors) {
    const Tensor& tensor = shard_.parameter(job, number);
    auto* block = header.add_tensors();
    block->set_number(number);
    block->mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    auto values = blocks_->take(tensor.values.size() * sizeof(float));
    copies.push_back(
        {row_of(std::as_bytes(std::span(tensor.values)).data(), tensor), row_of(values->fill(), tensor)});
    message.payload.push_back(std::move(values));
  }
  backend_.copy(copies);
  backend_.wait();
  message.kind = uint32_t(kind);
  message.header = header.SerializeAsString();
  transport_.send(to, std::move(message));
}

void ShardWorker::gradients(const Message& message) {
  const auto header = read_header<proto::AdapterTensors>(message);
  const std::string& job = header.job();
  const Entry* entry = find(job);
  if (entry == nullptr || header.version() < shard_.version(job)) return;
  bool any = false;
  for (NumberedTensor& gradient : get_tensors(header, message)) {
    if (header.version() == shard_.version(job) && shard_.pushed(job, gradient.number)) continue;
    shard_.push(job, header.version(), gradient.number, std::move(gradient.tensor));
    any = true;
  }
  if (!any || !shard_.complete(job)) return;
  proto::GradientNorms norms;
  norms.set_job(job);
  norms.set_version(shard_.version(job));
  norms.mutable_tensors()->Add(entry->tensors.begin(), entry->tensors.end());
  const std::vector<double> squared = shard_.squared_norms(job);
  norms.mutable_squared_norms()->Add(squared.begin(), squared.end());
  transport_.send(coordinator_, make_message(proto::GRADIENT_NORMS, norms));
}

void ShardWorker::update(const Message& message) {
  const auto header = read_header<proto::UpdateAdapter>(message);
  if (find(header.job()) == nullptr) return;
  if (header.version() != shard_.version(header.job())) {
    throw invalid("job {}: an update is of version {}, the adapter is at {}", header.job(), header.version(),
                  shard_.version(header.job()));
  }
  const double begin = steady_seconds();
  shard_.update(header.job(), {header.learning_rate(), header.gradient_factor()});
  note("update", begin, header.job());
  publish(header.job());
}

void ShardWorker::commit(const Message& message) {
  const auto header = read_header<proto::AdapterVersion>(message);
  if (find(header.job()) == nullptr) return;
  if (header.version() != shard_.version(header.job())) {
    throw invalid("job {}: a commit is of version {}, the adapter is at {}", header.job(), header.version(),
                  shard_.version(header.job()));
  }
  store(header.job()).write(header.job(), shard_.state(header.job()), [this, header](double seconds) {
    note("commit", steady_seconds() - seconds, header.job());
    transport_.send(coordinator_, make_message(proto::COMMITTED, header));
  });
}

// Also of a job that has left: its last version stays, those before it go.
void ShardWorker::release(const Message& message) {
  const auto header = read_header<proto::AdapterVersion>(message);
  if (header.job().empty() || header.job().find('/') != std::string::npos || header.version() < 0) {
    throw invalid("job \"{}\": versions below {} cannot be released", header.job(), header.version());
  }
  store(header.job()).release(header.job(), header.version());
}

void ShardWorker::fetch(const Message& message) {
  const std::string job = read_header<proto::AdapterVersion>(message).job();
  const Entry* entry = find(job);
  if (entry != nullptr) send_tensors(message.from, proto::PARAMETERS, job, *entry, entry->tensors);
}

void ShardWorker::drop(const Message& message) {
  const std::string job = read_header<proto::DropAdapter>(message).job();
  if (jobs_.erase(job) > 0) shard_.remove(job);
}

}  // namespace coppice
