#pragma once
// The other end of an RpcServer: one connection that waits. Every call has a time within which it must be
// through. After an error the connection is of no use any more.
//
// Thread: one at a time. Errors, one line each that begins with HOST:PORT: kNotFound (nobody listens, the
// host is not known, the connection was closed), kBusy (not within the time), kInvalid (a message too large,
// bytes that are no frame), kUnsupported (another version), or the server's own refusal as kInvalid.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "common/net/frame.h"

namespace coppice {

struct RpcClientOptions {
  std::string server = "127.0.0.1:7420";  // HOST:PORT
  int connect_ms = 5000;
  int send_ms = 30000;
  size_t limit_bytes = kMaxFrameBytes;  // of a message in either direction
};

class RpcClient {
 public:
  explicit RpcClient(const RpcClientOptions& options);
  ~RpcClient();
  RpcClient(const RpcClient&) = delete;
  RpcClient& operator=(const RpcClient&) = delete;

  const std::string& server() const;  // HOST:PORT, as it begins every error
  void send(std::string_view message);
  std::string receive(int timeout_ms);  // the next message; a negative time waits for ever

 private:
  class Connection;
  std::unique_ptr<Connection> connection_;
};

}  // namespace coppice
