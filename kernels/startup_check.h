#pragma once
// The start-up check of a backend: the promise that everything rests on (backend.h), tried on this processor with the
// products where libraries are known to break it, because a library chooses its code by the processor it meets.
// Thread: compute thread. Errors: kFailed names the backend, the product and the dtype. Takes some milliseconds.

#include "kernels/backend.h"

namespace coppice {

// compute is one that the backend supports.
void check_equal_bits(Backend& backend, DType compute);

}  // namespace coppice
