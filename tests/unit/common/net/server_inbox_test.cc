#include "common/net/server_inbox.h"

#include <gtest/gtest.h>

namespace coppice {
namespace {

using Kind = Incoming::Kind;
using Room = ServerInbox::Room;

class ServerInboxTest : public testing::Test {
 protected:
  static RpcServerOptions small() {
    RpcServerOptions options;
    options.max_connections = 2;
    options.queued_messages = 4;
    options.queued_bytes = 1000;
    options.outgoing_bytes = 1000;
    return options;
  }
  std::optional<Incoming> pop() { return inbox_.pop(resumed_); }

  ServerInbox inbox_{small()};
  std::vector<uint64_t> resumed_;
};

TEST_F(ServerInboxTest, AClientWithAFullShareIsPausedUntilHalfIsTaken) {
  inbox_.open(1);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(inbox_.push(1, "m"));
  EXPECT_FALSE(inbox_.push(1, "m"));
  EXPECT_EQ(pop()->kind, Kind::kOpened);
  pop();
  EXPECT_TRUE(resumed_.empty());
  pop();
  EXPECT_EQ(resumed_, std::vector<uint64_t>{1});
}

TEST_F(ServerInboxTest, OneFullShareLeavesOthersTheirs) {
  inbox_.open(1);
  inbox_.open(2);
  for (int i = 0; i < 4; ++i) inbox_.push(1, "m");
  EXPECT_TRUE(inbox_.push(2, "m"));
}

TEST_F(ServerInboxTest, ManyBytesPauseWhoSendsThem) {
  inbox_.open(1);
  inbox_.open(2);
  EXPECT_TRUE(inbox_.push(1, std::string(900, 'm')));
  EXPECT_FALSE(inbox_.push(2, std::string(200, 'm')));
  for (int i = 0; i < 3; ++i) pop();
  EXPECT_EQ(resumed_, std::vector<uint64_t>{2});
}

TEST_F(ServerInboxTest, AClientCountsUntilItsEndIsTaken) {
  EXPECT_TRUE(inbox_.open(1));
  EXPECT_TRUE(inbox_.open(2));
  EXPECT_FALSE(inbox_.open(3));
  inbox_.closed(1);
  EXPECT_FALSE(inbox_.open(3));
  while (pop()) {
  }
  EXPECT_TRUE(inbox_.open(3));
}

TEST_F(ServerInboxTest, OfAForgottenClientOnlyItsEndComes) {
  inbox_.open(1);
  pop();
  inbox_.push(1, "m");
  inbox_.forget(1);
  inbox_.push(1, "m");
  inbox_.closed(1);
  inbox_.closed(1);
  EXPECT_EQ(pop()->kind, Kind::kClosed);
  EXPECT_FALSE(pop());
}

TEST_F(ServerInboxTest, ABacklogDropsItsClientOnce) {
  inbox_.open(1);
  EXPECT_EQ(inbox_.reserve(1, 700), Room::kSend);
  EXPECT_EQ(inbox_.reserve(1, 700), Room::kDrop);
  EXPECT_EQ(inbox_.reserve(1, 1), Room::kIgnore);
  EXPECT_EQ(inbox_.reserve(7, 1), Room::kIgnore);
}

TEST_F(ServerInboxTest, WhatHasGoneOutIsNoBacklog) {
  inbox_.open(1);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(inbox_.reserve(1, 700), Room::kSend);
    inbox_.sent(1, 700);
  }
  EXPECT_EQ(inbox_.reserve(1, 5000), Room::kSend);  // alone, whatever its size
}

}  // namespace
}  // namespace coppice
