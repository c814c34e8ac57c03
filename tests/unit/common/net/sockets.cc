#include "tests/unit/common/net/sockets.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>

namespace coppice {
namespace {

constexpr int kWaitSeconds = 10;

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

void limit_waits(int socket) {
  const timeval limit{kWaitSeconds, 0};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

}  // namespace

PlainClient::PlainClient(uint16_t port, int receive_buffer_bytes) {
  socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer_bytes > 0) {
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  }
  limit_waits(socket_);
  const sockaddr_in address = loopback(port);
  EXPECT_EQ(::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
}

PlainClient::~PlainClient() {
  if (socket_ >= 0) ::close(socket_);
}

bool PlainClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(size_t(sent));
  }
  return true;
}

std::string PlainClient::until_closed() {
  std::string all;
  char piece[4096];
  for (;;) {
    const ssize_t count = ::recv(socket_, piece, sizeof piece, 0);
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) ADD_FAILURE() << "was not closed";
    if (count <= 0) return all;
    all.append(piece, size_t(count));
  }
}

void PlainClient::vanish() {
  const linger at_once{1, 0};
  ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  ::close(socket_);
  socket_ = -1;
}

PlainServer::PlainServer(std::string answer, int stay_ms) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(listener_, 1), 0);
  EXPECT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
  port_ = ntohs(address.sin_port);
  limit_waits(listener_);
  thread_ = std::thread([this, stay_ms, answer = std::move(answer)] {
    const int socket = ::accept(listener_, nullptr, nullptr);
    if (socket < 0) return;
    limit_waits(socket);
    char first[4096];
    if (::recv(socket, first, sizeof first, 0) > 0 && !answer.empty()) {
      EXPECT_EQ(::send(socket, answer.data(), answer.size(), MSG_NOSIGNAL), ssize_t(answer.size()));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(stay_ms));
    ::close(socket);
  });
}

PlainServer::~PlainServer() {
  ::shutdown(listener_, SHUT_RDWR);  // ends a wait for a connection that never came
  thread_.join();
  ::close(listener_);
}

std::string PlainServer::address() const {
  return "127.0.0.1:" + std::to_string(port_);
}

std::optional<Incoming> next(RpcServer& server) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kWaitSeconds);
  while (std::chrono::steady_clock::now() < deadline) {
    if (auto incoming = server.poll()) return incoming;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return std::nullopt;
}

Serving::Serving(RpcServer& server, std::function<std::string(const std::string&)> body)
    : thread_([&server, body = std::move(body)](std::stop_token stop) {
        while (!stop.stop_requested()) {
          const auto incoming = server.poll();
          if (!incoming) {
            std::this_thread::sleep_for(std::chrono::microseconds(100));
          } else if (incoming->kind == Incoming::Kind::kMessage) {
            server.accept(incoming->client);
            server.send(incoming->client, body(incoming->message));
          }
        }
      }) {}

Serving::~Serving() = default;

RpcServerOptions any_port() {
  RpcServerOptions options;
  options.listen = "127.0.0.1:0";
  return options;
}

}  // namespace coppice
