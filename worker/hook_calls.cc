#include "worker/hook_calls.h"

#include <algorithm>
#include <iterator>

#include "common/base/check.h"

namespace coppice {
namespace {

// Whether holds(method, bound) for a use among the first `rows`.
template <typename Holds>
bool any_use(const PackUses& uses, int64_t rows, const Holds& holds) {
  for (const PackUses::Group& group : uses.groups())
    for (const BoundUse& bound : group.uses)
      if (bound.use.row < rows && holds(*group.method, bound)) return true;
  return false;
}

}  // namespace

void PackUses::add(const CachedAdapter& cached, HookUse use) {
  const Method* method = &cached.adapter.config->method();
  auto group =
      std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) { return g.method == method; });
  if (group == groups_.end()) {
    groups_.push_back({method, {}});
    group = groups_.end() - 1;
  }
  group->uses.push_back({use, &cached});
}

Matrix HookStore::make(Backend& backend, int64_t number, int key, int64_t rows, int64_t cols) {
  const auto [at, made] = kept_.try_emplace({number, key});
  CHECK(made);  // a key is used once at a layer
  at->second = make_rows(backend, rows, cols);
  return at->second.matrix;
}

Matrix HookStore::find(int64_t number, int key) const {
  const auto found = kept_.find({number, key});
  CHECK(found != kept_.end());
  return found->second.matrix;
}

bool HookCalls::Asks::operator()(const CachedAdapter& cached) const {
  switch (hook) {
    case Hook::kTokenRows:
      return cached.adapter.config->hooks().token_rows;
    case Hook::kInput:
      return cached.wants->input[number];
    case Hook::kOutput:
      return cached.wants->output[number];
    case Hook::kBoth:
      return cached.wants->input[number] && cached.wants->output[number];
    case Hook::kOutputGradient:
      return cached.wants->output[number] && cached.adapter.config->method().changes_dy();
    case Hook::kSublayer:
      return cached.wants->sublayer[number];
  }
  return false;
}

bool HookCalls::any(const Asks& asks) const {
  return any_use(uses_, rows_, [&](const Method&, const BoundUse& bound) { return asks(*bound.cached); });
}

bool HookCalls::changes_output(const Module& module) const {
  const Asks asks = output(module);
  return any_use(uses_, rows_, [&](const Method& method, const BoundUse& bound) {
    return asks(*bound.cached) &&
           method.changes_output(*bound.use.adapter->config, module, bound.use.segment->training);
  });
}

// Calls each kind of method with those of its uses that ask for the hook.
template <typename Call>
void HookCalls::each_kind(const Asks& asks, const Call& call) {
  for (const PackUses::Group& group : uses_.groups()) {
    selected_.clear();
    for (const BoundUse& bound : group.uses) {
      if (bound.use.row >= rows_ || !asks(*bound.cached)) continue;
      selected_.push_back(bound.use);
      if (layer_ >= 0) selected_.back().token_ids = {};  // at the embedding only
    }
    if (selected_.empty()) continue;
    call(*group.method, std::span<const HookUse>(selected_));
    scratch_.clear();
  }
}

std::vector<std::pair<int64_t, int64_t>> HookCalls::input_ranges(const Module& module) const {
  const Asks asks = input(module);
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const PackUses::Group& group : uses_.groups())
    for (const BoundUse& bound : group.uses)
      if (bound.use.row < rows_ && asks(*bound.cached))
        ranges.emplace_back(bound.use.row, bound.use.row + bound.use.rows);
  std::sort(ranges.begin(), ranges.end());
  return ranges;
}

void HookCalls::token_rows(Matrix rows) {
  each_kind({Hook::kTokenRows},
            [&](const Method& method, auto uses) { method.token_rows(*this, uses, rows); });
}

void HookCalls::token_rows_backward(Matrix drows) {
  each_kind({Hook::kTokenRows},
            [&](const Method& method, auto uses) { method.token_rows_backward(*this, uses, drows); });
}

void HookCalls::projection_input(const Module& module, Matrix x) {
  each_kind(input(module),
            [&](const Method& method, auto uses) { method.projection_input(*this, module, uses, x); });
}

void HookCalls::projection_input_backward(const Module& module, Matrix x, Matrix dx) {
  each_kind(input(module), [&](const Method& method, auto uses) {
    method.projection_input_backward(*this, module, uses, x, dx);
  });
}

std::vector<LowRankItem> HookCalls::low_rank(const Module& module) {
  std::vector<LowRankItem> items;
  each_kind(output(module), [&](const Method& method, auto uses) {
    method.low_rank(*this, module, uses, items);
    std::move(scratch_.begin(), scratch_.end(), std::back_inserter(inner_));
    scratch_.clear();
  });
  return items;
}

void HookCalls::projection_output(const Module& module, Matrix x, Matrix y) {
  inner_.clear();
  each_kind(output(module),
            [&](const Method& method, auto uses) { method.projection_output(*this, module, uses, x, y); });
}

void HookCalls::projection_output_backward(const Module& module, Matrix x, Matrix dy) {
  each_kind(output_gradient(module), [&](const Method& method, auto uses) {
    method.projection_output_backward(*this, module, uses, x, dy);
  });
}

std::vector<LowRankItem> HookCalls::low_rank_backward(const Module& module, int64_t lower_rows) {
  std::vector<LowRankItem> items;
  each_kind(output(module), [&](const Method& method, auto uses) {
    method.low_rank_backward(*this, module, uses, lower_rows, items);
  });
  return items;
}

void HookCalls::projection_branch_backward(const Module& module, Matrix x, Matrix dy, Matrix dx) {
  each_kind(output(module), [&](const Method& method, auto uses) {
    method.projection_branch_backward(*this, module, uses, x, dy, dx);
  });
}

void HookCalls::sublayer_output(Sublayer sublayer, Matrix y) {
  each_kind(after(sublayer),
            [&](const Method& method, auto uses) { method.sublayer_output(*this, sublayer, uses, y); });
}

void HookCalls::sublayer_output_backward(Sublayer sublayer, Matrix dy) {
  each_kind(after(sublayer), [&](const Method& method, auto uses) {
    method.sublayer_output_backward(*this, sublayer, uses, dy);
  });
}

Matrix HookCalls::keep(const HookUse& use, int key, int64_t rows, int64_t cols) {
  if (!backward_follows(use)) return scratch(rows, cols);
  return store_->make(backend_, use.number, key, rows, cols);
}

Matrix HookCalls::kept(const HookUse& use, int key) {
  CHECK(store_ != nullptr);
  return store_->find(use.number, key);
}

Matrix HookCalls::scratch(int64_t rows, int64_t cols) {
  scratch_.push_back(make_rows(backend_, rows, cols));
  return scratch_.back().matrix;
}

bool HookCalls::backward_follows(const HookUse& use) const {
  return store_ != nullptr && use.segment->training && use.segment->lowest_layer <= layer_;
}

}  // namespace coppice
