// What a server does to clients that go beyond its limits, and that nobody else notices.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "common/net/rpc_client.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/common/net/sockets.h"

namespace coppice {
namespace {

using Kind = Incoming::Kind;

// The refusal that bytes consist of, and nothing else.
std::string refusal(const std::string& bytes) {
  FrameReader reader(0);
  reader.append(bytes);
  const auto frame = reader.next();
  if (!frame || !frame->refusal) {
    ADD_FAILURE() << "no refusal came, but " << bytes.size() << " bytes";
    return {};
  }
  EXPECT_EQ(bytes.size(), kFrameHeaderBytes + frame->message.size());
  EXPECT_EQ(one_line(frame->message), frame->message);
  return frame->message;
}

RpcClientOptions to(const RpcServer& server) {
  RpcClientOptions options;
  options.server = server.address();
  return options;
}

void expect_alive(RpcServer& server) {
  const Serving serving(server, [](const std::string& message) { return message; });
  RpcClient client(to(server));
  client.send("alive?");
  EXPECT_EQ(client.receive(5000), "alive?");
}

TEST(ServerLimitsTest, WhatIsNoFrameGetsOneRefusal) {
  RpcServer server(any_port());
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "no frame of Coppice's protocol"},
      {frame_header(3, 2) + "abc", "version 2 "},
      {frame_header(3, 0xfffffffe) + "abc", "version 4294967294 "},
      {frame_header(kMaxFirstFrameBytes + 1), "65537"},
      {frame_header(0xffffffff), "4294967295"},
      {std::string(100000, 'x'), "no frame of Coppice's protocol"},
  };
  for (const auto& [bytes, word] : cases) {
    PlainClient client(server.port());
    EXPECT_TRUE(client.send(bytes));
    EXPECT_NE(refusal(client.until_closed()).find(word), std::string::npos) << word;
  }
  expect_alive(server);
}

TEST(ServerLimitsTest, TheFirstMessageIsSmallAndLaterOnesNeedNotBe) {
  RpcServer server(any_port());
  PlainClient client(server.port());
  client.send(make_frame(std::string(kMaxFirstFrameBytes, 'a')) + make_frame(std::string(1 << 20, 'b')));
  next(server);
  const auto first = next(server);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->message.size(), kMaxFirstFrameBytes);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(server.poll());  // a stranger's second message waits for its acceptance
  server.accept(first->client);
  EXPECT_EQ(next(server)->message.size(), size_t(1) << 20);
  client.send(frame_header(kMaxFrameBytes + 1));
  EXPECT_NE(refusal(client.until_closed()).find("67108865"), std::string::npos);
}

TEST(ServerLimitsTest, SilentAndSlowStrangersAreSentAway) {
  RpcServerOptions options = any_port();
  options.accept_ms = 100;
  RpcServer server(options);
  PlainClient silent(server.port()), slow(server.port());
  slow.send(frame_header(10) + "half");
  EXPECT_NE(refusal(silent.until_closed()).find("0.1 s"), std::string::npos);
  EXPECT_NE(refusal(slow.until_closed()).find("0.1 s"), std::string::npos);
  expect_alive(server);
}

TEST(ServerLimitsTest, AnAcceptedClientMayBeSilent) {
  RpcServerOptions options = any_port();
  options.accept_ms = 50;
  RpcServer server(options);
  RpcClient client(to(server));
  client.send("a");
  next(server);
  const uint64_t id = next(server)->client;
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the owner takes its time
  server.accept(id);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  client.send("b");
  EXPECT_EQ(next(server)->message, "b");
}

TEST(ServerLimitsTest, AWatcherThatNeverReadsIsDroppedAndNobodyElseNotices) {
  RpcServerOptions options = any_port();
  options.outgoing_bytes = 1 << 20;
  RpcServer server(options);
  PlainClient watcher(server.port(), 4096);
  watcher.send(make_frame("watch"));
  next(server);
  const uint64_t watching = next(server)->client;
  server.accept(watching);
  RpcClient reader(to(server));
  reader.send("watch");
  next(server);
  const uint64_t reading = next(server)->client;
  server.accept(reading);
  const std::string event(10000, 'e');
  std::optional<Incoming> end;
  int events = 0;
  for (; !end && events < 10000; ++events) {
    server.send(watching, event);
    server.send(reading, event);
    EXPECT_EQ(reader.receive(5000), event);
    end = server.poll();
  }
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, Kind::kClosed);
  EXPECT_EQ(end->client, watching);
  expect_alive(server);
}

TEST(ServerLimitsTest, ConnectionsAreLimitedAndTheRestAreTold) {
  RpcServerOptions options = any_port();
  options.max_connections = 2;
  options.accept_ms = 60000;
  RpcServer server(options);
  auto first = std::make_unique<PlainClient>(server.port());
  PlainClient second(server.port());
  ASSERT_EQ(next(server)->kind, Kind::kOpened);
  ASSERT_EQ(next(server)->kind, Kind::kOpened);
  PlainClient third(server.port());
  EXPECT_NE(refusal(third.until_closed()).find("2 connections"), std::string::npos);
  first.reset();
  EXPECT_EQ(next(server)->kind, Kind::kClosed);
  expect_alive(server);
}

TEST(ServerLimitsTest, HalfOfTheDescriptorsAreLeftToOthers) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit few = before;
  few.rlim_cur = 256;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  {
    RpcServer server(any_port());
    std::vector<std::unique_ptr<PlainClient>> clients;
    for (int i = 0; i < 64; ++i) {
      clients.push_back(std::make_unique<PlainClient>(server.port()));
      EXPECT_EQ(next(server)->kind, Kind::kOpened);
    }
    PlainClient another(server.port());
    EXPECT_NE(refusal(another.until_closed()).find("64 connections"), std::string::npos);
  }
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST(ServerLimitsTest, AStormOfConnectionsPasses) {
  RpcServerOptions options = any_port();
  options.max_connections = 8;
  options.linger_ms = 50;
  RpcServer server(options);
  for (int round = 0; round < 10; ++round) {
    std::vector<std::unique_ptr<PlainClient>> storm;
    for (int i = 0; i < 20; ++i) storm.push_back(std::make_unique<PlainClient>(server.port()));
    for (auto& client : storm) client->vanish();
  }
  const Serving serving(server, [](const std::string& message) { return message; });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  std::string answer;
  while (answer.empty() && std::chrono::steady_clock::now() < deadline) {
    try {
      RpcClient client(to(server));
      client.send("alive?");
      answer = client.receive(5000);
    } catch (const Error&) {  // the last of the storm is still being counted
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  EXPECT_EQ(answer, "alive?");
}

}  // namespace
}  // namespace coppice
