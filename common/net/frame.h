#pragma once
// How messages are cut out of a stream of bytes: each travels as a frame, a header of 12 bytes and then the
// message. What the message says is nobody's business here.
//
//   bytes 0-3   "CpcF"
//   bytes 4-7   version, little endian: 1; 0 is a refusal, in every version of the protocol
//   bytes 8-11  length of the message in bytes, little endian
//
// A refusal's message is one line of text, after which its sender closes the connection: so an end that
// speaks another version can still be told why. A header is checked as soon as its bytes are there, before
// memory is taken for what it announces; the memory then grows with what has really come.
//
// Thread: one. Errors: kInvalid for bytes that are no frame, kUnsupported for another version; after an error
// the stream has no meaning any more.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace coppice {

constexpr uint32_t kFrameVersion = 1;
constexpr uint32_t kRefusalVersion = 0;
constexpr size_t kFrameHeaderBytes = 12;
constexpr size_t kMaxFrameBytes = size_t(64) << 20;       // of a message
constexpr size_t kMaxFirstFrameBytes = size_t(64) << 10;  // of a message from a client not yet accepted
constexpr size_t kMaxRefusalBytes = 4096;

// A header for a message of so many bytes, at most 2^32 - 1.
std::string frame_header(size_t message_bytes, uint32_t version = kFrameVersion);
std::string make_frame(std::string_view message, uint32_t version = kFrameVersion);

struct Frame {
  bool refusal = false;
  std::string message;
};

class FrameReader {
 public:
  explicit FrameReader(size_t limit_bytes) : limit_bytes_(limit_bytes) {}

  void set_limit(size_t limit_bytes) { limit_bytes_ = limit_bytes; }
  void append(std::string_view bytes);
  std::optional<Frame> next();  // the next whole frame; none: more bytes are needed

 private:
  size_t limit_bytes_;
  std::string bytes_;
  size_t begin_ = 0;  // of what has not been given out
};

// Text from the other end as it may stand in a message to a user: one line without control characters, of
// bounded length.
std::string one_line(std::string_view text, size_t max_bytes = kMaxRefusalBytes);

}  // namespace coppice
