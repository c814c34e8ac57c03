#pragma once
// What goes before a message's blocks when it leaves the process: what kind it is, its header, and how long
// each block is, so that a receiver knows all it has to wait for. The bytes, little-endian:
//   magic u32 | kind u32 | number of blocks u32 | bytes of the header u32 | bytes of each block u64 ... |
//   header
//
// Errors: kInvalid where a message does not fit the bounds or where received bytes are not such an envelope;
// nothing is taken from memory before the lengths are checked against each other and the bounds.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/transport/transport.h"

namespace coppice {

constexpr uint64_t kMaxEnvelopeBytes = uint64_t(256) << 20;
constexpr uint64_t kMaxMessageBytes = uint64_t(1) << 38;  // all blocks of one message: 256 GiB

struct Envelope {
  uint32_t kind = 0;
  std::string_view header;  // into the bytes that were opened
  std::vector<uint64_t> block_bytes;
};

std::string make_envelope(const Message& message);
Envelope open_envelope(std::string_view bytes, int from);  // from: the rank to name in an error

}  // namespace coppice
