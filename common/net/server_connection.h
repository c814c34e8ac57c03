#pragma once
// One client's connection, on the network thread of a server. Its life: first (its first message has not
// come whole), undecided (the owner looks at that message), accepted, closing (what is to be sent goes out,
// what comes is thrown away, for linger_ms), gone.
//
// Bytes are read only when they are there, into a buffer that all connections share, so an idle connection
// holds none. A closing connection goes on reading: closing a socket with unread bytes would make the system
// throw away what the client has not read yet.
//
// Thread: the network thread. Errors: none; whatever goes wrong ends this connection.

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "common/net/frame.h"
#include "common/net/server_inbox.h"

namespace coppice {

class ServerConnection : public std::enable_shared_from_this<ServerConnection> {
 public:
  struct Host {  // what a connection needs of its server
    const RpcServerOptions& options;
    ServerInbox& inbox;
    std::span<char> buffer;
    std::function<void(uint64_t client)> gone;
  };

  ServerConnection(boost::asio::ip::tcp::socket socket, uint64_t client, Host& host);

  void start();
  void refuse(const std::string& why);  // one refusal, then closing
  void accept();
  void resume();  // the owner has taken messages
  void send(std::string message);
  void close();  // after what is to be sent
  void drop();   // at once

 private:
  enum class State { kFirst, kUndecided, kAccepted, kClosing, kGone };
  struct Outgoing {
    std::string header, message;
    bool counted = false;  // in the inbox
  };

  template <typename Body>
  void guarded(const Body& body);
  void wait_readable();
  void readable();
  void deliver();
  void queue(Outgoing outgoing);
  void write_next();
  void written();
  void start_timer(int milliseconds, std::function<void()> body);
  void finish_sending();

  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_;
  uint64_t client_;
  Host& host_;
  State state_ = State::kFirst;
  FrameReader reader_;
  bool announced_ = false;  // the inbox knows it
  bool paused_ = false;
  bool waiting_ = false;
  std::deque<Outgoing> outgoing_;
  size_t writing_ = 0;  // the first so many of them, in one call
};

}  // namespace coppice
