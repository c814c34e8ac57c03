#pragma once
// Small things that every hook does with its uses. Thread: compute thread.

#include <span>
#include <vector>

#include "worker/peft/method.h"

namespace coppice {

inline Matrix rows_of(const HookUse& use, Matrix rows) {
  return rows.row_range(use.row, use.rows);
}

// Of a gradient that only the first rows of the matrices at hand have: empty where the use's are not of them.
inline Matrix lower_rows_of(const HookUse& use, Matrix dx) {
  return use.row < dx.rows ? rows_of(use, dx) : Matrix{};
}

// Empty where no gradient is wanted.
inline Matrix gradient_of(const HookUse& use, size_t number) {
  if (!use.segment->training || use.adapter->gradients.empty()) return {};
  return use.adapter->gradients[number];
}

template <typename Config>
const Config& config_of(const HookUse& use) {
  return static_cast<const Config&>(*use.adapter->config);
}

// What the backward needs of a forward: kept where there will be one, else only until the hook returns.
inline Matrix keep_or_scratch(HookContext& context, const HookUse& use, int key, int64_t rows, int64_t cols) {
  return context.backward_follows(use) ? context.keep(use, key, rows, cols) : context.scratch(rows, cols);
}

}  // namespace coppice
