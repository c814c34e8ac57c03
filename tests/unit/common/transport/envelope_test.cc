#include "common/transport/envelope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "common/base/error.h"

namespace coppice {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A block that says it has so many bytes: nobody here looks at them.
class ClaimedPayload : public Payload {
 public:
  explicit ClaimedPayload(size_t bytes) : bytes_(bytes) {}
  const std::byte* data() const override { return nullptr; }
  size_t bytes() const override { return bytes_; }

 private:
  size_t bytes_;
};

std::string envelope_of(std::vector<size_t> blocks_bytes, std::string header = "header") {
  Message message;
  message.kind = 7;
  message.header = std::move(header);
  for (const size_t bytes : blocks_bytes) message.payload.push_back(std::make_unique<ClaimedPayload>(bytes));
  return make_envelope(message);
}

std::string refusal(const std::string& bytes) {
  try {
    open_envelope(bytes, 3);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    EXPECT_THAT(error.what(), HasSubstr("rank 3"));
    return error.what();
  }
  return "opened";
}

TEST(EnvelopeTest, ComesOutAsItWentIn) {
  for (const std::string& header : {std::string(), std::string("x"), std::string(100000, 'y')}) {
    const std::string bytes = envelope_of({0, 1, size_t(1) << 33}, header);
    const Envelope opened = open_envelope(bytes, 0);
    EXPECT_EQ(opened.kind, 7u);
    EXPECT_EQ(opened.header, header);
    EXPECT_THAT(opened.block_bytes, ElementsAre(0, 1, uint64_t(1) << 33));
  }
  EXPECT_TRUE(open_envelope(envelope_of({}, ""), 0).block_bytes.empty());
}

TEST(EnvelopeTest, RefusesEveryOtherLength) {
  const std::string bytes = envelope_of({5, 6});
  for (size_t length = 0; length < bytes.size(); ++length)
    EXPECT_NE(refusal(bytes.substr(0, length)), "opened") << length;
  EXPECT_THAT(refusal(bytes + "!"),
              HasSubstr("39 bytes that says it has 2 blocks and a header of 6 bytes; that makes 38 bytes"));
}

TEST(EnvelopeTest, RefusesCountsThatDoNotFitTheBytes) {
  for (const size_t field : {8, 12}) {  // number of blocks, bytes of the header
    for (const uint32_t value : {0u, 3u, 0x10000000u, 0x80000000u, 0xffffffffu}) {
      std::string bytes = envelope_of({5, 6});
      std::memcpy(bytes.data() + field, &value, sizeof value);
      EXPECT_NE(refusal(bytes), "opened") << field << " " << value;
    }
  }
}

TEST(EnvelopeTest, RefusesBlocksAboveTheBound) {
  open_envelope(envelope_of({kMaxMessageBytes, 0}), 3);
  for (const uint64_t bytes : {kMaxMessageBytes, ~uint64_t(0), ~uint64_t(0) - 15}) {  // the sum may overflow
    std::string envelope = envelope_of({16, 1});
    std::memcpy(envelope.data() + 24, &bytes, sizeof bytes);
    EXPECT_THAT(refusal(envelope), HasSubstr("block 1 has " + std::to_string(bytes) + " bytes"));
  }
  EXPECT_THROW(envelope_of({kMaxMessageBytes, 1}), Error);
}

TEST(EnvelopeTest, RefusesToMakeOneThatNobodyWouldTake) {
  try {
    envelope_of({}, std::string(kMaxEnvelopeBytes, 'x'));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("a header of 268435456 bytes"));
  }
}

TEST(EnvelopeTest, RefusesAnotherMagic) {
  std::string bytes = envelope_of({1});
  bytes[0] = 'x';
  EXPECT_THAT(refusal(bytes), HasSubstr("is it the same coppice?"));
}

TEST(EnvelopeTest, AnyBytesAreOpenedOrRefused) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::string good = envelope_of({5, 6, 7, 8});
  int opened = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    for (unsigned changes = random() % 4; changes > 0; --changes)
      bytes[random() % bytes.size()] = char(random());
    try {
      const Envelope envelope = open_envelope(bytes, 3);
      EXPECT_EQ(16 + 8 * envelope.block_bytes.size() + envelope.header.size(), bytes.size());
      ++opened;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    }
  }
  EXPECT_GT(opened, 1000);
}

}  // namespace
}  // namespace coppice
