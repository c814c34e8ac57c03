// Bytes from the network may be anything: a reader and a server take them or refuse them, and nothing else
// happens.
#include <gtest/gtest.h>

#include <random>

#include "common/net/rpc_client.h"
#include "tests/unit/common/io/testing.h"
#include "tests/unit/common/net/sockets.h"

namespace coppice {
namespace {

// A stream of frames with a few bytes changed, cut or doubled; one in four is noise from the start.
std::string garbage(std::mt19937& random) {
  std::string bytes;
  if (random() % 4 == 0) {
    bytes.resize(random() % 300);
    for (char& c : bytes) c = char(random());
    return bytes;
  }
  const size_t frames = 1 + random() % 4;
  for (size_t i = 0; i < frames; ++i) bytes += make_frame(std::string(random() % 200, char(random())));
  for (size_t i = random() % 4; i > 0 && !bytes.empty(); --i) {
    const size_t at = random() % bytes.size();
    switch (random() % 3) {
      case 0:
        bytes[at] = char(random());
        break;
      case 1:
        bytes.erase(at, 1 + random() % 20);
        break;
      default:
        bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 20));
    }
  }
  return bytes;
}

TEST(GarbageTest, AReaderTakesOrRefusesAnyBytes) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  int taken = 0, refused = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::string bytes = garbage(random);
    FrameReader reader(150);
    try {
      for (size_t at = 0; at < bytes.size();) {
        const size_t piece = 1 + random() % 64;
        reader.append(std::string_view(bytes).substr(at, piece));
        at += piece;
        while (const auto frame = reader.next()) {
          EXPECT_LE(frame->message.size(), frame->refusal ? kMaxRefusalBytes : 150u);
          ++taken;
        }
      }
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(taken, 100);
  EXPECT_GT(refused, 100);
}

TEST(GarbageTest, AServerOutlivesAnyBytes) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  RpcServer server(any_port());
  const Serving serving(server, [](const std::string& message) { return message; });
  for (int round = 0; round < 200; ++round) {
    PlainClient client(server.port());
    client.send(garbage(random));
    if (round % 2 == 0) client.vanish();
  }
  RpcClientOptions options;
  options.server = server.address();
  RpcClient client(options);
  client.send("alive?");
  EXPECT_EQ(client.receive(5000), "alive?");
}

TEST(GarbageTest, AClientOutlivesAnyAnswer) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 50; ++round) {
    const PlainServer server(garbage(random));
    RpcClientOptions options;
    options.server = server.address();
    options.limit_bytes = 1000;
    const std::string message = message_of([&] {
      RpcClient client(options);
      client.send("a");
      for (;;) client.receive(5000);
    });
    EXPECT_TRUE(message.starts_with(server.address() + ": ")) << message;
  }
}

}  // namespace
}  // namespace coppice
