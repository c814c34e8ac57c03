#include "common/net/frame.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

constexpr size_t kLimit = 1000;

TEST(FrameTest, HeaderIsMagicVersionLength) {
  const std::string header = frame_header(0x01020304);
  EXPECT_EQ(header, std::string("CpcF\x01\0\0\0\x04\x03\x02\x01", 12));
}

TEST(FrameTest, MessagesComeOutAsTheyWentIn) {
  FrameReader reader(kLimit);
  for (size_t size : {0, 1, 2, 11, 12, 13, 999, 1000}) {
    std::string message(size, 'x');
    for (size_t i = 0; i < size; ++i) message[i] = char(i * 7);
    reader.append(make_frame(message));
    const auto frame = reader.next();
    ASSERT_TRUE(frame) << size;
    EXPECT_FALSE(frame->refusal);
    EXPECT_EQ(frame->message, message);
    EXPECT_FALSE(reader.next());
  }
}

TEST(FrameTest, FramesComeByteByByteAndManyAtOnce) {
  const std::vector<std::string> messages = {"", "one", std::string(kLimit, '\0'), "", "last"};
  std::string stream;
  for (const std::string& message : messages) stream += make_frame(message);
  for (size_t piece : {size_t(1), size_t(5), stream.size()}) {
    FrameReader reader(kLimit);
    std::vector<std::string> got;
    for (size_t at = 0; at < stream.size(); at += piece) {
      reader.append(std::string_view(stream).substr(at, piece));
      while (auto frame = reader.next()) got.push_back(frame->message);
    }
    EXPECT_EQ(got, messages) << piece;
  }
}

TEST(FrameTest, ACutFrameIsNotWhole) {
  const std::string frame = make_frame("a message");
  for (size_t size = 0; size < frame.size(); ++size) {
    FrameReader reader(kLimit);
    reader.append(std::string_view(frame).substr(0, size));
    EXPECT_FALSE(reader.next()) << size;
  }
}

TEST(FrameTest, TooLargeIsRefusedByItsHeaderAlone) {
  FrameReader reader(kLimit);
  reader.append(frame_header(kLimit + 1));
  const Error error = error_of([&] { reader.next(); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalid);
  EXPECT_STREQ(error.what(), "a frame of 1001 bytes came; at most 1000 are accepted");
  FrameReader largest(kLimit);
  largest.append(frame_header(0xffffffff));
  EXPECT_NE(message_of([&] { largest.next(); }).find("4294967295"), std::string::npos);
}

TEST(FrameTest, TheLimitCanBeRaised) {
  FrameReader reader(10);
  reader.append(make_frame(std::string(10, 'a')) + make_frame(std::string(11, 'b')));
  EXPECT_EQ(reader.next()->message.size(), 10u);
  reader.set_limit(11);
  EXPECT_EQ(reader.next()->message.size(), 11u);
}

TEST(FrameTest, WrongMagicIsRefusedFromTheFirstByte) {
  for (const char* bytes : {"G", "GET / HTTP/1.1\r\n\r\n", "C\n", "Cpc", "CpcG", "cpcF"}) {
    FrameReader reader(kLimit);
    reader.append(bytes);
    if (std::string_view("CpcF").starts_with(bytes)) {
      EXPECT_FALSE(reader.next());
      continue;
    }
    EXPECT_EQ(error_of([&] { reader.next(); }).code(), ErrorCode::kInvalid) << bytes;
  }
}

TEST(FrameTest, OtherVersionsAreRefusedByName) {
  for (uint32_t version : {2u, 256u, 0xffffffffu}) {
    FrameReader reader(kLimit);
    reader.append(frame_header(3, version));
    const Error error = error_of([&] { reader.next(); });
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find(std::to_string(version)), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("version 1 "), std::string::npos) << error.what();
  }
}

TEST(FrameTest, ARefusalIsReadAndHasItsOwnLimit) {
  FrameReader reader(10);
  reader.append(make_frame("not so, and here is why", kRefusalVersion));
  const auto frame = reader.next();
  ASSERT_TRUE(frame);
  EXPECT_TRUE(frame->refusal);
  EXPECT_EQ(frame->message, "not so, and here is why");
  reader.append(frame_header(kMaxRefusalBytes + 1, kRefusalVersion));
  EXPECT_EQ(error_of([&] { reader.next(); }).code(), ErrorCode::kInvalid);
}

TEST(FrameTest, TextFromOutsideBecomesOneLine) {
  EXPECT_EQ(one_line("a\nb\r\x1b[31mc\x7f"), "a b  [31mc ");
  EXPECT_EQ(one_line(std::string(5000, 'x')).size(), kMaxRefusalBytes);
  EXPECT_EQ(one_line("abc", 2), "ab");
}

}  // namespace
}  // namespace coppice
