#include "common/transport/envelope.h"

#include <bit>
#include <cstring>

#include "common/base/error.h"

namespace coppice {
namespace {

static_assert(std::endian::native == std::endian::little, "envelopes are written as the memory has them");

constexpr uint32_t kMagic = 0x31707043;  // "Cpp1"

struct Start {
  uint32_t magic, kind, blocks, header_bytes;
};
static_assert(sizeof(Start) == 16);

}  // namespace

std::string make_envelope(const Message& message) {
  const uint64_t bytes = sizeof(Start) + message.payload.size() * sizeof(uint64_t) + message.header.size();
  if (bytes > kMaxEnvelopeBytes) {
    throw invalid(
        "a message of kind {} has a header of {} bytes and {} blocks: {} bytes before the blocks; at most {} "
        "are accepted",
        message.kind, message.header.size(), message.payload.size(), bytes, kMaxEnvelopeBytes);
  }
  const Start start{kMagic, message.kind, uint32_t(message.payload.size()), uint32_t(message.header.size())};
  std::string envelope;
  envelope.reserve(bytes);
  envelope.append(reinterpret_cast<const char*>(&start), sizeof start);
  uint64_t total = 0;
  for (const auto& block : message.payload) {
    const uint64_t block_bytes = block->bytes();
    total += block_bytes;
    envelope.append(reinterpret_cast<const char*>(&block_bytes), sizeof block_bytes);
  }
  if (total > kMaxMessageBytes) {
    throw invalid("a message of kind {} has {} bytes of blocks; at most {} are accepted", message.kind, total,
                  kMaxMessageBytes);
  }
  return envelope.append(message.header);
}

Envelope open_envelope(std::string_view bytes, int from) {
  Start start{};
  if (bytes.size() < sizeof start) {
    throw invalid("rank {} sent an envelope of {} bytes; at least {} are accepted", from, bytes.size(),
                  sizeof start);
  }
  std::memcpy(&start, bytes.data(), sizeof start);
  if (start.magic != kMagic) {
    throw invalid(
        "rank {} sent an envelope that begins with {:#010x}; {:#010x} is accepted: is it the same coppice?",
        from, start.magic, kMagic);
  }
  const uint64_t expected = sizeof start + uint64_t(start.blocks) * sizeof(uint64_t) + start.header_bytes;
  if (expected != bytes.size()) {
    throw invalid(
        "rank {} sent an envelope of {} bytes that says it has {} blocks and a header of {} bytes; that "
        "makes {} bytes",
        from, bytes.size(), start.blocks, start.header_bytes, expected);
  }
  Envelope envelope;
  envelope.kind = start.kind;
  envelope.block_bytes.resize(start.blocks);
  if (start.blocks > 0) {
    std::memcpy(envelope.block_bytes.data(), bytes.data() + sizeof start, start.blocks * sizeof(uint64_t));
  }
  uint64_t left = kMaxMessageBytes;
  for (size_t i = 0; i < envelope.block_bytes.size(); ++i) {
    if (envelope.block_bytes[i] > left) {
      throw invalid(
          "rank {} announced a message of kind {} whose block {} has {} bytes; at most {} for all its blocks "
          "are accepted",
          from, start.kind, i, envelope.block_bytes[i], kMaxMessageBytes);
    }
    left -= envelope.block_bytes[i];
  }
  envelope.header = bytes.substr(bytes.size() - start.header_bytes);
  return envelope;
}

}  // namespace coppice
