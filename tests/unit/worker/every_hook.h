#pragma once
// A method for tests that takes part in every hook, with simple formulas of its own, so that the stage is
// tested without trusting the methods that it serves:
//   embedding      y += E[token];  virtual rows = P, token rows += s
//   projection     y = c * (W (g * x) + A x + b)      on every projection and the head (the head without g)
//   keys, values   two learned pairs
//   sub-layer      y = u * y

#include <memory>

#include "worker/peft/method.h"

namespace coppice {

// first_layer: tensors live at this layer and above; -1 for everything.
std::shared_ptr<const MethodConfig> every_hook_config(const BackboneConfig& backbone,
                                                      int64_t first_layer = -1);

}  // namespace coppice
