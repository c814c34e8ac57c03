#pragma once
// The adapters on a stage: one version a job, only the tensors that live in the stage's layers, with a
// gradient slot each from the first backward of a step until its gradients are taken. What a config asks of
// each module (wants_input, wants_output, wants_sublayer) is asked once here, not once a pack. A pack in
// flight shares ownership of the adapters it was begun with, so dropping a job never pulls memory from under
// it.
//
// Thread: compute thread. Errors: kExhausted from the device.

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "worker/peft/method.h"
#include "worker/rows.h"

namespace coppice {

// Where a module stands in backbone_modules().
int64_t module_number(const BackboneConfig& config, const Module& module);

// What a config asks of each module and sub-layer of the backbone.
struct HookTable {
  std::vector<bool> input, output;  // by module_number
  std::vector<bool> sublayer;       // by 2 * layer + (attention 0, mlp 1)
};

struct CachedAdapter {
  Adapter adapter;
  int64_t version = 0;
  bool training = false;
  std::shared_ptr<const HookTable> wants;
  std::vector<int64_t> numbers;  // of the tensors that live here, ascending
  // All tensors, and all gradients while there are any: one row each, of which the adapter's matrices are
  // parts.
  Rows values, slots;
  // The last micro-batch that adds to the slots, as (step, number).
  std::pair<int64_t, int64_t> last_micro_batch{-1, -1};

  // Before the backward of a micro-batch: makes the slots where it is the first of its step. CHECKs that a
  // job's micro-batches come in order: their gradients add up in that order.
  void follow(Backend& backend, const Segment& segment);
  void drop_slots();
};

class AdapterCache {
 public:
  AdapterCache(Backend& backend, const BackboneConfig& config,
               std::function<bool(const TensorSpec&)> lives_here)
      : backend_(backend), config_(config), lives_here_(std::move(lives_here)) {}

  // As Stage::set_adapter, take_gradients and drop_adapter say.
  void set(const std::string& job, std::shared_ptr<const MethodConfig> method, uint64_t seed, int64_t version,
           std::span<const NumberedView> tensors, bool training);
  std::vector<NumberedTensor> take_gradients(const std::string& job);
  void drop(const std::string& job) { jobs_.erase(job); }
  std::shared_ptr<CachedAdapter> find(const std::string& job) const;  // null where there is none
  size_t bytes() const;

 private:
  std::shared_ptr<CachedAdapter> make(std::shared_ptr<const MethodConfig> method, bool training) const;
  std::shared_ptr<const HookTable> ask(const MethodConfig& method) const;

  Backend& backend_;
  const BackboneConfig& config_;
  std::function<bool(const TensorSpec&)> lives_here_;
  std::map<std::string, std::shared_ptr<CachedAdapter>> jobs_;
};

}  // namespace coppice
