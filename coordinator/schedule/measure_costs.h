#pragma once
// What a block and the head with its loss cost here, as a pack of some rows goes through them forward and
// backward: what the split into stages is planned by. Takes the backbone's last layer into memory for the
// time. The adapters, small beside it, are left out.
//
// Thread: compute thread. Errors: those of a Stage.

#include <string>

#include "coordinator/schedule/planner.h"
#include "kernels/backend.h"

namespace coppice {

// folder: of the backbone. The least of a few repetitions.
LayerCosts measure_costs(Backend& backend, const BackboneConfig& config, const std::string& folder,
                         DType compute);

}  // namespace coppice
