#pragma once
// How the frozen layers call PEFT methods: the uses of a pack (one for each segment with an adapter) grouped
// by kind of method, and a HookContext bound to one layer that hands each kind all of its uses at a hook at
// once, in pack order.
//
// The order at a projection y = f(W g(x)), g and f the hooks on input and output:
//   forward   projection_input on a copy of x (on x itself where it is float32 and nobody needs it any more);
//   the frozen
//             product, and in its pass the low-rank ones that hooks have beside it; projection_output with
//             the x of before g.
//   backward  projection_output_backward leaves in dy what W is to see; then the frozen product, which is
//             written to dx or added to it, again with low-rank ones; where there is a g,
//             projection_input_backward turns the product before it gets there (backbone/linear.cc);
//             projection_branch_backward adds its part last.
// Whether a product overwrites dx or adds to it depends on the projection's place in the block, never on who
// is in the pack, so that no row's arithmetic depends on its company.
//
// Thread: compute thread. Errors: kExhausted from the device.

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "worker/adapter_cache.h"
#include "worker/peft/method.h"
#include "worker/rows.h"

namespace coppice {

// A use and what the job's config asks of every module.
struct BoundUse {
  HookUse use;
  const CachedAdapter* cached = nullptr;
};

// All uses of a pack, or of the pieces at the head, by kind of method.
class PackUses {
 public:
  struct Group {
    const Method* method = nullptr;
    std::vector<BoundUse> uses;  // in pack order
  };

  void add(const CachedAdapter& cached, HookUse use);
  const std::vector<Group>& groups() const { return groups_; }

 private:
  std::vector<Group> groups_;
};

// What hooks keep at one layer between forward and backward.
class HookStore {
 public:
  Matrix make(Backend& backend, int64_t number, int key, int64_t rows, int64_t cols);
  Matrix find(int64_t number, int key) const;

 private:
  std::map<std::pair<int64_t, int>, Rows> kept_;
};

class HookCalls final : public HookContext {
 public:
  // rows: only uses among the first so many take part. store: where hooks keep; null where nothing is kept
  // (no backward, or one that computes the forward again).
  HookCalls(Backend& backend, const BackboneConfig& config, DType compute, const PackUses& uses,
            int64_t layer, int64_t rows, HookStore* store)
      : backend_(backend),
        config_(config),
        compute_(compute),
        uses_(uses),
        layer_(layer),
        rows_(rows),
        store_(store) {}

  // --- what takes part
  bool wants_input(const Module& module) const { return any(input(module)); }
  bool wants_output(const Module& module) const { return any(output(module)); }
  bool changes_output(const Module& module) const;                           // beside low-rank products
  bool wants_both(const Module& module) const { return any(both(module)); }  // one adapter
  bool changes_dy(const Module& module) const { return any(output_gradient(module)); }
  bool wants_sublayer(Sublayer sublayer) const { return any(after(sublayer)); }
  // The rows [first, second) that change the module's input, ascending.
  std::vector<std::pair<int64_t, int64_t>> input_ranges(const Module& module) const;

  // --- the hooks, as in Method
  void token_rows(Matrix rows);
  void token_rows_backward(Matrix drows);
  void projection_input(const Module& module, Matrix x);
  void projection_input_backward(const Module& module, Matrix x, Matrix dx);
  std::vector<LowRankItem> low_rank(const Module& module);
  void projection_output(const Module& module, Matrix x, Matrix y);
  void projection_output_backward(const Module& module, Matrix x, Matrix dy);
  std::vector<LowRankItem> low_rank_backward(const Module& module, int64_t lower_rows);
  void projection_branch_backward(const Module& module, Matrix x, Matrix dy, Matrix dx);
  void sublayer_output(Sublayer sublayer, Matrix y);
  void sublayer_output_backward(Sublayer sublayer, Matrix dy);

  // --- HookContext
  Backend& backend() override { return backend_; }
  DType compute() const override { return compute_; }
  int64_t layer() const override { return layer_; }
  Matrix keep(const HookUse& use, int key, int64_t rows, int64_t cols) override;
  Matrix kept(const HookUse& use, int key) override;
  Matrix scratch(int64_t rows, int64_t cols) override;
  bool backward_follows(const HookUse& use) const override;

 private:
  enum class Hook { kTokenRows, kInput, kOutput, kBoth, kOutputGradient, kSublayer };
  // Whether an adapter takes part in a hook at a place.
  struct Asks {
    Hook hook;
    size_t number = 0;  // of the module or the sub-layer in a HookTable
    bool operator()(const CachedAdapter& cached) const;
  };
  Asks input(const Module& module) const { return {Hook::kInput, size_t(module_number(config_, module))}; }
  Asks output(const Module& module) const { return {Hook::kOutput, size_t(module_number(config_, module))}; }
  Asks both(const Module& module) const { return {Hook::kBoth, size_t(module_number(config_, module))}; }
  Asks output_gradient(const Module& module) const {
    return {Hook::kOutputGradient, size_t(module_number(config_, module))};
  }
  Asks after(Sublayer sublayer) const {
    return {Hook::kSublayer, size_t(2 * layer_ + (sublayer == Sublayer::kMlp))};
  }
  bool any(const Asks& asks) const;
  template <typename Call>
  void each_kind(const Asks& asks, const Call& call);

  Backend& backend_;
  const BackboneConfig& config_;
  DType compute_;
  const PackUses& uses_;
  int64_t layer_, rows_;
  HookStore* store_;
  std::vector<HookUse> selected_;
  std::vector<Rows> scratch_;
  std::vector<Rows> inner_;  // of low-rank products, until the projection is done
};

}  // namespace coppice
