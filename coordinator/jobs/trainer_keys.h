#pragma once
// The keys of transformers.TrainingArguments (of versions 4 and 5) that have one meaning or none here. Most
// are accepted at the value that changes nothing, which is their default, and refused by name at any other,
// with what does the work instead. A few steer machinery that does not exist here (loader processes, progress
// bars, sockets between trainers) and change no number anywhere: those are accepted at any value. Thread:
// any. Errors: kUnsupported.

#include "common/io/keys.h"

namespace coppice {

// Asks keys for all of them, so that Keys::finish() knows them.
void read_fixed_trainer_keys(Keys& keys);

}  // namespace coppice
