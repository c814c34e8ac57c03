#include <gtest/gtest.h>

#include "common/transport/transport.h"

namespace coppice {
namespace {

Message message(uint32_t kind, std::string header) {
  Message made;
  made.from = 99;  // for send to put right
  made.kind = kind;
  made.header = std::move(header);
  return made;
}

TEST(LoopbackTest, EveryRankHasItsEnd) {
  for (const int size : {1, 2, 4, 7}) {
    const auto ends = make_loopback(size);
    ASSERT_EQ(ends.size(), size_t(size));
    for (int rank = 0; rank < size; ++rank) {
      EXPECT_EQ(ends[size_t(rank)]->rank(), rank);
      EXPECT_EQ(ends[size_t(rank)]->size(), size);
      EXPECT_FALSE(ends[size_t(rank)]->receive());
    }
  }
}

TEST(LoopbackTest, MessagesBetweenTwoRanksArriveInOrderFromTheirSender) {
  const int size = 4;
  const auto ends = make_loopback(size);
  for (uint32_t i = 0; i < 10; ++i) {
    for (int from = 0; from < size; ++from) {
      for (int to = 0; to < size; ++to) {
        ends[size_t(from)]->send(to, message(i, std::to_string(from) + " to " + std::to_string(to)));
      }
    }
  }
  for (int to = 0; to < size; ++to) {
    std::vector<uint32_t> next(size, 0);
    while (const auto got = ends[size_t(to)]->receive()) {
      ASSERT_TRUE(got->from >= 0 && got->from < size);
      EXPECT_EQ(got->kind, next[size_t(got->from)]++);
      EXPECT_EQ(got->header, std::to_string(got->from) + " to " + std::to_string(to));
    }
    EXPECT_EQ(next, std::vector<uint32_t>(size, 10));
  }
}

TEST(LoopbackTest, PayloadIsMovedNotCopied) {
  const auto ends = make_loopback(2);
  for (const size_t count : {size_t(0), size_t(1), size_t(10000)}) {
    Message sent = message(1, "");
    sent.payload.push_back(std::make_unique<BytesPayload>(std::vector<std::byte>(count, std::byte{7})));
    sent.payload.push_back(std::make_unique<BytesPayload>(std::vector<std::byte>(3)));
    const Payload* block = sent.payload[0].get();
    ends[0]->send(1, std::move(sent));
    EXPECT_FALSE(ends[0]->receive());
    const auto got = ends[1]->receive();
    ASSERT_TRUE(got);
    ASSERT_EQ(got->payload.size(), 2u);
    EXPECT_EQ(got->payload[0].get(), block);
    EXPECT_EQ(got->payload[0]->bytes(), count);
    EXPECT_EQ(got->payload[1]->bytes(), 3u);
    if (count > 0) {
      EXPECT_EQ(got->payload[0]->data()[count - 1], std::byte{7});
    }
  }
}

TEST(LoopbackTest, ARankMayGoBeforeTheOthers) {
  auto ends = make_loopback(3);
  ends[1]->send(2, message(5, "last words"));
  ends[1].reset();
  ends[0]->send(1, message(6, "to nobody"));
  const auto got = ends[2]->receive();
  ASSERT_TRUE(got);
  EXPECT_EQ(got->from, 1);
  EXPECT_EQ(got->header, "last words");
}

}  // namespace
}  // namespace coppice
