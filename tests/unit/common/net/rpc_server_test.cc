#include "common/net/rpc_server.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "common/net/rpc_client.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/common/net/sockets.h"

namespace coppice {
namespace {

using Kind = Incoming::Kind;

RpcClientOptions to(const RpcServer& server) {
  RpcClientOptions options;
  options.server = server.address();
  return options;
}

TEST(RpcServerTest, AClientIsOpenedSpeaksIsAnsweredAndClosed) {
  RpcServer server(any_port());
  EXPECT_EQ(server.address(), "127.0.0.1:" + std::to_string(server.port()));
  EXPECT_FALSE(server.poll());
  uint64_t id = 0;
  {
    RpcClient client(to(server));
    const auto opened = next(server);
    ASSERT_TRUE(opened);
    EXPECT_EQ(opened->kind, Kind::kOpened);
    id = opened->client;
    client.send("hello");
    const auto message = next(server);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->kind, Kind::kMessage);
    EXPECT_EQ(message->client, id);
    EXPECT_EQ(message->message, "hello");
    server.accept(id);
    server.send(id, "");
    server.send(id, "welcome");
    EXPECT_EQ(client.receive(5000), "");
    EXPECT_EQ(client.receive(5000), "welcome");
  }
  const auto closed = next(server);
  ASSERT_TRUE(closed);
  EXPECT_EQ(closed->kind, Kind::kClosed);
  EXPECT_EQ(closed->client, id);
  server.send(id, "nobody is there");
  server.accept(id);
  server.close(id, "nor now");
}

TEST(RpcServerTest, ManyClientsAtOnceEachGetTheirOwnAnswers) {
  RpcServer server(any_port());
  const Serving serving(server, [](const std::string& message) { return "re " + message; });
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  for (int client = 0; client < 24; ++client) {
    threads.emplace_back([&, client] {
      RpcClient connection(to(server));
      for (int i = 0; i < 20; ++i) {
        const std::string text = std::to_string(client) + "." + std::to_string(i) + std::string(i * 500, '.');
        connection.send(text);
        good += connection.receive(10000) == "re " + text;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 24 * 20);
}

TEST(RpcServerTest, ManyMessagesAtOnceArriveInOrder) {
  RpcServer server(any_port());
  RpcClient client(to(server));
  client.send("first");
  next(server);
  const uint64_t id = next(server)->client;
  server.accept(id);
  constexpr int kMessages = 300;  // more than one client's share of the queue
  std::thread sender([&] {
    for (int i = 0; i < kMessages; ++i) client.send(std::to_string(i) + std::string(10000, 'x'));
  });
  for (int i = 0; i < kMessages; ++i) {
    const auto message = next(server);
    ASSERT_TRUE(message) << i;
    EXPECT_EQ(message->message, std::to_string(i) + std::string(10000, 'x'));
  }
  sender.join();
}

TEST(RpcServerTest, ManyAnswersAtOnceArriveInOrder) {
  RpcServer server(any_port());
  RpcClient client(to(server));
  client.send("first");
  next(server);
  const uint64_t id = next(server)->client;
  const auto answer = [](int i) {
    return std::to_string(i) + std::string(i % 37 == 0 ? 300000 : i % 50, 'x');
  };
  constexpr int kAnswers = 1000;
  for (int i = 0; i < kAnswers; ++i) server.send(id, answer(i));
  server.close(id, "last");
  for (int i = 0; i < kAnswers; ++i) ASSERT_EQ(client.receive(5000), answer(i)) << i;
  EXPECT_EQ(client.receive(5000), "last");
}

TEST(RpcServerTest, AClientThatVanishesInsideAFrameHurtsNobody) {
  RpcServer server(any_port());
  for (const bool reset : {true, false}) {
    PlainClient vanishing(server.port());
    vanishing.send(frame_header(1000) + "not all of it");
    const auto opened = next(server);
    ASSERT_TRUE(opened);
    if (reset) vanishing.vanish();
    if (!reset) {
      PlainClient moved(server.port());
      EXPECT_EQ(next(server)->kind, Kind::kOpened);
      moved.vanish();
    }
    EXPECT_EQ(next(server)->kind, Kind::kClosed);
  }
  const Serving serving(server, [](const std::string& message) { return message; });
  RpcClient client(to(server));
  client.send("still there?");
  EXPECT_EQ(client.receive(5000), "still there?");
}

TEST(RpcServerTest, ALastMessageReachesAClientThatIsStillSending) {
  RpcServer server(any_port());
  PlainClient client(server.port());
  client.send(make_frame("a") + make_frame(std::string(60000, 'b')));
  next(server);
  const auto message = next(server);
  ASSERT_TRUE(message);
  server.close(message->client, "go away");
  server.send(message->client, "after the last");
  EXPECT_EQ(client.until_closed(), make_frame("go away"));
}

TEST(RpcServerTest, NothingComesOfAClosedClientButItsEnd) {
  RpcServer server(any_port());
  PlainClient client(server.port());
  client.send(make_frame("a"));
  next(server);
  const uint64_t id = next(server)->client;
  server.accept(id);
  client.send(make_frame("b"));
  server.close(id);
  EXPECT_EQ(client.until_closed(), "");
  client.send(make_frame("c"));
  client.vanish();
  EXPECT_EQ(next(server)->kind, Kind::kClosed);
}

TEST(RpcServerTest, AServerThatGoesSendsWhatIsOnItsWay) {
  auto server = std::make_unique<RpcServer>(any_port());
  auto client = std::make_unique<RpcClient>(to(*server)), silent = std::make_unique<RpcClient>(to(*server));
  client->send("a");
  std::optional<Incoming> message;
  while (!message || message->kind != Kind::kMessage) message = next(*server);
  const std::string large(3 << 20, 'x');
  server->send(message->client, large);
  std::thread going([&] { server.reset(); });
  EXPECT_EQ(client->receive(5000), large);
  EXPECT_EQ(error_of([&] { client->receive(5000); }).code(), ErrorCode::kNotFound);
  EXPECT_NE(message_of([&] { silent->receive(5000); }).find("closed the connection"), std::string::npos);
  client.reset();
  silent.reset();
  going.join();
}

TEST(RpcServerTest, APortInUseIsBusy) {
  RpcServer server(any_port());
  RpcServerOptions options;
  options.listen = server.address();
  const Error error = error_of([&] { RpcServer second(options); });
  EXPECT_EQ(error.code(), ErrorCode::kBusy);
  EXPECT_TRUE(std::string(error.what()).starts_with(server.address() + ": ")) << error.what();
}

TEST(RpcServerTest, AddressesThatCannotBeHadAreNamed) {
  for (const char* address : {"no-such-host.invalid:7420", "nonsense", "127.0.0.1:70000"}) {
    RpcServerOptions options;
    options.listen = address;
    const Error error = error_of([&] { RpcServer server(options); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalid);
    EXPECT_TRUE(std::string(error.what()).starts_with(address)) << error.what();
  }
}

TEST(RpcServerTest, OnlyTheLoopbackUnlessAsked) {
  RpcServerOptions options;
  options.listen = "0.0.0.0:0";
  EXPECT_NE(message_of([&] { RpcServer server(options); }).find("--insecure"), std::string::npos);
  options.loopback_only = false;
  const RpcServer server(options);
  EXPECT_GT(server.port(), 0);
}

}  // namespace
}  // namespace coppice
