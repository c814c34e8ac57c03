#pragma once
// A server of messages over TCP: takes connections, cuts their bytes into messages (frame.h), and sends
// messages back. It knows nothing of what they say. One network thread of its own does all socket work; the
// main thread takes what has come with poll() and never waits.
//
// A connection begins as a stranger: it may send one message, of at most first_limit_bytes, within
// accept_ms. The owner looks at that message and says accept(), whereupon larger messages may follow, or
// close(). Bytes that are no frame, or another version's, get one refusal and the connection is closed. A
// client that does not read what it is sent is dropped when outgoing_bytes wait for it. Nobody else notices.
//
// Thread: main; poll(), send() and the like may not be called from several threads. Ownership: none outlives
// the server; its destructor sends what is on its way, for at most a second. Errors: the constructor throws
// kBusy where the port is in use and kInvalid where the address cannot be had, naming HOST:PORT; nothing else
// throws for what a client does.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "common/net/frame.h"

namespace coppice {

struct RpcServerOptions {
  std::string listen = "127.0.0.1:7420";  // HOST:PORT; port 0: the system chooses
  bool loopback_only = true;              // any other address is refused, as bytes travel in the clear
  size_t max_connections = 1024;          // fewer where that is more than half of the process's descriptors
  size_t first_limit_bytes = kMaxFirstFrameBytes;
  size_t limit_bytes = kMaxFrameBytes;
  size_t outgoing_bytes = size_t(16) << 20;  // waiting for one client
  size_t queued_messages = 16;               // of one client, waiting for poll()
  size_t queued_bytes = size_t(256) << 20;   // of all clients, waiting for poll()
  int accept_ms = 10000;                     // for the first message
  int linger_ms = 2000;                      // for a last message to be taken by its client
};

struct Incoming {
  enum class Kind { kOpened, kMessage, kClosed };
  Kind kind = Kind::kMessage;
  uint64_t client = 0;  // never used again for another
  std::string message;
};

class RpcServer {
 public:
  explicit RpcServer(const RpcServerOptions& options);
  ~RpcServer();
  RpcServer(const RpcServer&) = delete;
  RpcServer& operator=(const RpcServer&) = delete;

  uint16_t port() const;
  const std::string& address() const;  // HOST:PORT, with the port that it has

  // What has come next: every client is opened first and closed last, whoever closed it.
  std::optional<Incoming> poll();

  // A client that is gone or closed is passed over in silence; its kClosed comes or has come.
  void send(uint64_t client, std::string message);
  void accept(uint64_t client);
  // After what was sent to it and the last message have gone out. Nothing more comes of it but kClosed.
  void close(uint64_t client, std::optional<std::string> last = std::nullopt);

 private:
  class Network;
  std::unique_ptr<Network> network_;
};

}  // namespace coppice
