#pragma once
// What the network thread of a server hands to the main thread, and the counts by which both sides keep their
// bounds. A client has a share of the queue: when it is full, the network thread stops reading from that
// client until the main thread has taken something; so a client that floods the server waits for itself, and
// the kernel makes its sender wait. What goes out is counted here too, from send() until the system has it.
//
// Thread: any; one mutex, held for moments. Errors: none but lack of memory.

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/net/rpc_server.h"

namespace coppice {

class ServerInbox {
 public:
  explicit ServerInbox(const RpcServerOptions& options) : options_(options) {}

  // Network thread. open: false where there are too many clients, those included that are gone but whose end
  // the main thread has not taken yet. push: false where the client is to be read no further until pop()
  // names it as resumed.
  bool open(uint64_t client);
  bool push(uint64_t client, std::string message);
  void closed(uint64_t client);
  void sent(uint64_t client, size_t bytes);

  // Main thread. pop appends clients that are to be read again. reserve: whether the message is to be sent;
  // dropped says that the client has now taken too little for too long.
  enum class Room { kSend, kIgnore, kDrop };
  std::optional<Incoming> pop(std::vector<uint64_t>& resumed);
  Room reserve(uint64_t client, size_t bytes);
  void forget(uint64_t client);  // nothing more of it is given out but its end

 private:
  struct Client {
    size_t queued = 0;
    size_t outgoing_bytes = 0;
    bool gone = false;       // its end is in the queue
    bool forgotten = false;  // by the main thread
  };
  void find_resumed(std::vector<uint64_t>& resumed);

  const RpcServerOptions options_;
  std::mutex mutex_;
  std::map<uint64_t, Client> clients_;
  std::deque<Incoming> queue_;
  size_t queued_bytes_ = 0;
  std::set<uint64_t> paused_;
};

}  // namespace coppice
