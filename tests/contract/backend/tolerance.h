#pragma once
// How far two devices may be apart, in one place. Errors are measured against the largest magnitude in the
// array that is compared, because a sum that cancels has the error of its terms. Where both devices round the
// inputs of a product to bfloat16, they round them alike, so only the order of float32 sums differs; where a
// rounded value was computed (the probabilities of attention), one more or less in the last of 8 bits is
// allowed.

#include "common/tensor/dtype.h"

namespace coppice::contract {

constexpr double kSumTolerance = 2e-5;  // float32 sums of up to some thousand terms, exp, log and the like
constexpr double kRoundedTolerance = 2e-2;   // a computed value was rounded to bfloat16 on the way
constexpr double kDenormalTolerance = 1e-5;  // as kSumTolerance, plus a few units of 1.4e-45 (kDenormalUnits)
constexpr double kDenormalUnits = 64 * 1.4e-45;

// Of attention against double, not against another device, with scores up to 200: their rounding in a float32
// chain of up to 256 terms is some 1e-5, and an exponential has it as its own. Twice the most that was seen.
constexpr double kSharpTolerance = 1e-4;

}  // namespace coppice::contract
