#include "common/net/rpc_client.h"

#include <gtest/gtest.h>

#include "tests/unit/common/io/testing.h"
#include "tests/unit/common/net/sockets.h"

namespace coppice {
namespace {

// What a client says of a server that answers its first message so.
Error told(const std::string& answer, int stay_ms = 0, int timeout_ms = 5000) {
  const PlainServer server(answer, stay_ms);
  RpcClientOptions options;
  options.server = server.address();
  const Error error = error_of([&] {
    RpcClient client(options);
    client.send("a");
    client.receive(timeout_ms);
  });
  EXPECT_TRUE(std::string(error.what()).starts_with(server.address() + ": ")) << error.what();
  return error;
}

bool says(const Error& error, std::string_view word) {
  return std::string_view(error.what()).find(word) != std::string_view::npos;
}

TEST(RpcClientTest, NobodyListens) {
  RpcClientOptions options;
  {
    const RpcServer server(any_port());
    options.server = server.address();
  }
  const Error error = error_of([&] { RpcClient client(options); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_TRUE(std::string(error.what()).starts_with(options.server + ": ")) << error.what();
  EXPECT_TRUE(says(error, "refused")) << error.what();
}

TEST(RpcClientTest, AHostThatIsNotKnown) {
  RpcClientOptions options;
  options.server = "no-such-host.invalid:7420";
  const Error error = error_of([&] { RpcClient client(options); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_TRUE(says(error, "no-such-host.invalid:7420: ")) << error.what();
}

TEST(RpcClientTest, AServerThatSaysNothing) {
  const Error error = told("", 200, 50);
  EXPECT_EQ(error.code(), ErrorCode::kBusy);
  EXPECT_TRUE(says(error, "within 0.05 s")) << error.what();
}

TEST(RpcClientTest, AServerThatGoesInTheMiddle) {
  for (const std::string& answer : {std::string(), frame_header(100), frame_header(100) + "half"}) {
    const Error error = told(answer);
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_TRUE(says(error, "closed the connection")) << error.what();
  }
}

TEST(RpcClientTest, AServerOfAnotherVersion) {
  const Error error = told(make_frame("welcome", 9));
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_TRUE(says(error, "version 9 ")) << error.what();
}

TEST(RpcClientTest, ARefusalIsToldAsItWasSaid) {
  const Error error = told(make_frame("version 1 is old\nhat", kRefusalVersion));
  EXPECT_EQ(error.code(), ErrorCode::kInvalid);
  EXPECT_TRUE(says(error, "version 1 is old hat")) << error.what();
}

TEST(RpcClientTest, AnotherKindOfServer) {
  EXPECT_TRUE(says(told("HTTP/1.1 400 Bad Request\r\n\r\n"), "no frame of Coppice's protocol"));
}

TEST(RpcClientTest, AnAnswerThatIsTooLarge) {
  EXPECT_TRUE(says(told(frame_header(kMaxFrameBytes + 1)), "67108865"));
}

TEST(RpcClientTest, ARequestThatIsTooLargeIsNotSent) {
  const PlainServer server("");
  RpcClientOptions options;
  options.server = server.address();
  options.limit_bytes = 10;
  RpcClient client(options);
  EXPECT_EQ(error_of([&] { client.send("eleven byte"); }).code(), ErrorCode::kInvalid);
}

TEST(RpcClientTest, TheAddressIsChecked) {
  RpcClientOptions options;
  options.server = "localhost";
  EXPECT_EQ(error_of([&] { RpcClient client(options); }).code(), ErrorCode::kInvalid);
}

}  // namespace
}  // namespace coppice
