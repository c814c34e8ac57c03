#pragma once
// What the tests of the network share: a plain socket that sends any bytes, one that listens and answers as
// it is told, and the main thread's half of a server.

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "common/net/rpc_server.h"

namespace coppice {

// Connects to 127.0.0.1. Every wait ends after ten seconds, as a failure.
class PlainClient {
 public:
  explicit PlainClient(uint16_t port, int receive_buffer_bytes = 0);
  ~PlainClient();
  PlainClient(const PlainClient&) = delete;
  PlainClient& operator=(const PlainClient&) = delete;

  bool send(std::string_view bytes);  // false: the other end is gone
  std::string until_closed();         // all that comes
  void vanish();                      // at once, with a reset

 private:
  int socket_ = -1;
};

// Listens on a port of its own; takes one connection, waits for its first bytes, answers and closes.
class PlainServer {
 public:
  explicit PlainServer(std::string answer, int stay_ms = 0);
  ~PlainServer();
  std::string address() const;
  uint16_t port() const { return port_; }

 private:
  int listener_ = -1;
  uint16_t port_ = 0;
  std::thread thread_;
};

// The next that comes of a server, waiting up to ten seconds; none then.
std::optional<Incoming> next(RpcServer& server);

// A main thread that accepts everybody and answers each message with body's result, until it goes.
class Serving {
 public:
  Serving(RpcServer& server, std::function<std::string(const std::string&)> body);
  ~Serving();

 private:
  std::jthread thread_;
};

RpcServerOptions any_port();

}  // namespace coppice
