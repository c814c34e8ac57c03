#pragma once
// The part of the parameter server that one rank holds: FP32 masters of adapters, their optimizer state, and
// nothing else. It collects the gradients that stages push, tells the squared norm of each tensor, applies an
// update and raises the version. It decides nothing: when and by what factor comes from the coordinator. A
// step function of its calls; no clock, no network.
//
// Life of a step: push (until complete), squared_norms, update. A push for another version than the adapter's
// is refused.
//
// Thread: one. Errors: kInvalid for pushes that do not fit (job, version, number, shape), kNotFound for
// unknown jobs.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/tensor/tensor.h"
#include "coordinator/jobs/job.h"
#include "kernels/backend.h"

namespace coppice {

// A named tensor of an adapter that this shard owns.
struct ShardTensor {
  int64_t number = 0;  // in the manifest of the job
  std::string name;
  Shape shape;
  int shard = 0;  // where it is stored; 0: with HEAD
};

struct UpdateStep {
  double learning_rate = 0;
  double gradient_factor = 1;
};

// Everything a shard remembers of a job, as it is written to the store: for each tensor its values and its
// optimizer's moments.
struct ShardState {
  int64_t version = 0;
  std::vector<ShardTensor> tensors;
  std::vector<Tensor> parameters;
  std::vector<std::vector<Tensor>> moments;  // per tensor: AdamW {m, v}, SGD {} or {momentum}
};

size_t moment_count(const TrainArguments& train);  // that the job's optimizer keeps of each tensor

class Shard {
 public:
  explicit Shard(Backend& backend);  // a host-memory backend
  ~Shard();

  void add(const std::string& job, const TrainArguments& train, ShardState state);  // empty moments: zeros
  void remove(const std::string& job);
  bool has(const std::string& job) const;
  int64_t version(const std::string& job) const;

  void push(const std::string& job, int64_t version, int64_t number, Tensor gradient);
  bool pushed(const std::string& job, int64_t number) const;        // this tensor has its gradient
  bool complete(const std::string& job) const;                      // every tensor has its gradient
  std::vector<double> squared_norms(const std::string& job) const;  // by tensor, in manifest order
  void update(const std::string& job, const UpdateStep& step);      // consumes the gradients, version + 1
  void discard_gradients(const std::string& job);

  const Tensor& parameter(const std::string& job, int64_t number) const;
  ShardState state(const std::string& job) const;  // a copy, between two updates
  size_t bytes() const;

 private:
  struct Adapter;
  Adapter& find(const std::string& job) const;
  Backend& backend_;
  std::map<std::string, std::unique_ptr<Adapter>> adapters_;
};

}  // namespace coppice
