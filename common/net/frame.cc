#include "common/net/frame.h"

#include "common/base/check.h"
#include "common/base/error.h"

namespace coppice {
namespace {

constexpr std::string_view kMagic = "CpcF";

void put_number(std::string& out, uint32_t number) {
  for (int shift = 0; shift < 32; shift += 8) out += char((number >> shift) & 0xff);
}

uint32_t number_at(std::string_view bytes, size_t at) {
  uint32_t number = 0;
  for (size_t i = 0; i < 4; ++i) number |= uint32_t(uint8_t(bytes[at + i])) << (8 * i);
  return number;
}

}  // namespace

std::string frame_header(size_t message_bytes, uint32_t version) {
  CHECK(message_bytes <= UINT32_MAX);
  std::string header(kMagic);
  put_number(header, version);
  put_number(header, uint32_t(message_bytes));
  return header;
}

std::string make_frame(std::string_view message, uint32_t version) {
  std::string frame = frame_header(message.size(), version);
  frame += message;
  return frame;
}

void FrameReader::append(std::string_view bytes) {
  bytes_.erase(0, begin_);
  begin_ = 0;
  bytes_ += bytes;
}

std::optional<Frame> FrameReader::next() {
  const std::string_view rest = std::string_view(bytes_).substr(begin_);
  if (!kMagic.starts_with(rest.substr(0, kMagic.size()))) {
    throw invalid("what came is no frame of Coppice's protocol: it does not begin with \"{}\"", kMagic);
  }
  if (rest.size() < kFrameHeaderBytes) return std::nullopt;
  const uint32_t version = number_at(rest, 4);
  if (version != kFrameVersion && version != kRefusalVersion) {
    throw unsupported("a frame of protocol version {} came; version {} is spoken here", version,
                      kFrameVersion);
  }
  const size_t length = number_at(rest, 8);
  const size_t limit = version == kRefusalVersion ? kMaxRefusalBytes : limit_bytes_;
  if (length > limit) throw invalid("a frame of {} bytes came; at most {} are accepted", length, limit);
  if (rest.size() - kFrameHeaderBytes < length) return std::nullopt;
  Frame frame{version == kRefusalVersion, std::string(rest.substr(kFrameHeaderBytes, length))};
  begin_ += kFrameHeaderBytes + length;
  if (begin_ == bytes_.size()) {
    bytes_ = std::string();  // a large message's memory is not kept
    begin_ = 0;
  }
  return frame;
}

std::string one_line(std::string_view text, size_t max_bytes) {
  std::string line(text.substr(0, max_bytes));
  for (char& c : line) {
    if (uint8_t(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return line;
}

}  // namespace coppice
