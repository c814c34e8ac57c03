#include "common/net/rpc_server.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/net/address.h"
#include "common/net/server_connection.h"
#include "common/net/server_inbox.h"

namespace coppice {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr size_t kReadBytes = size_t(64) << 10;
constexpr size_t kRefusedConnections = 64;  // beyond max_connections, while they are told so
constexpr int kStopMs = 1000;
constexpr int kRetryMs = 100;

// Signals are the main thread's: it is started with all of them blocked here.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

// Descriptors are the whole process's: half of them are left to others, the store above all.
RpcServerOptions bounded(RpcServerOptions options) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY) {
    const size_t half = size_t(files.rlim_cur) / 2;
    const size_t most = half > 2 * kRefusedConnections ? half - kRefusedConnections : kRefusedConnections;
    options.max_connections = std::min(options.max_connections, most);
  }
  return options;
}

tcp::acceptor listen(asio::io_context& io, const Address& address, bool loopback_only) {
  const std::string text = address_text(address);
  error_code error;
  tcp::resolver resolver(io);
  const auto found =
      resolver.resolve(address.host, std::to_string(address.port), tcp::resolver::passive, error);
  if (error) throw invalid("{}: cannot listen: the host is not known: {}", text, error.message());
  for (const auto& entry : found) {
    if (loopback_only && !entry.endpoint().address().is_loopback()) {
      throw invalid(
          "{}: would be reached from other machines, and nothing is encrypted; 127.0.0.1, or --insecure, "
          "is accepted",
          text);
    }
  }
  for (const auto& entry : found) {
    tcp::acceptor acceptor(io);
    acceptor.open(entry.endpoint().protocol(), error);
    if (error) continue;
    acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    acceptor.bind(entry.endpoint(), error);
    if (!error) acceptor.listen(tcp::acceptor::max_listen_connections, error);
    if (!error) return acceptor;
  }
  if (error == asio::error::address_in_use) {
    throw Error(ErrorCode::kBusy,
                fmt::format("{}: the port is in use; another, or 0 for any, is accepted", text));
  }
  throw invalid("{}: cannot listen: {}", text, error.message());
}

}  // namespace

class RpcServer::Network {
 public:
  explicit Network(const RpcServerOptions& options)
      : options_(bounded(options)),
        inbox_(options_),
        buffer_(kReadBytes),
        host_{options_, inbox_, buffer_, [this](uint64_t client) { gone(client); }},
        work_(io_.get_executor()),
        acceptor_(io_),
        accept_timer_(io_),
        stop_timer_(io_) {
    Address address = parse_address(options.listen, true);
    acceptor_ = listen(io_, address, options.loopback_only);
    address.port = port_ = acceptor_.local_endpoint().port();
    address_ = address_text(address);
    const SignalsBlocked blocked;
    thread_ = std::thread([this] { run(); });
  }

  ~Network() {
    asio::post(io_, [this] { stop(); });
    thread_.join();
  }

  uint16_t port() const { return port_; }
  const std::string& address() const { return address_; }
  ServerInbox& inbox() { return inbox_; }

  // From the main thread. Messages that follow each other go over together: waking the other thread for each
  // would cost the main thread more than making them. They stay in order with what is posted by with().
  void send(uint64_t client, std::string message) {
    const std::lock_guard lock(mutex_);
    if (to_send_.empty()) asio::post(io_, [this] { send_all(); });  // waits for the lock
    to_send_.emplace_back(client, std::move(message));
  }

  // From the main thread: body runs on the network thread with the client's connection, if there is one.
  template <typename Body>
  void with(uint64_t client, Body body) {
    asio::post(io_, [this, client, body = std::move(body)]() mutable {
      const auto found = connections_.find(client);
      if (found == connections_.end()) return;
      const auto connection = found->second;
      body(*connection);
    });
  }

 private:
  void send_all() {
    std::vector<std::pair<uint64_t, std::string>> messages;
    {
      const std::lock_guard lock(mutex_);
      messages.swap(to_send_);
    }
    for (auto& [client, message] : messages) {
      const auto found = connections_.find(client);
      if (found == connections_.end()) continue;
      const auto connection = found->second;
      connection->send(std::move(message));
    }
  }

  // A handler that lacks memory loses its own work, not the server; where it was to accept the next, that is
  // begun anew.
  void run() {
    for (;;) {
      try {
        accept_next();
        io_.run();
        return;
      } catch (const std::exception&) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
  }

  void accept_next() {
    if (accepting_ || stopping_) return;
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      accepting_ = false;
      if (stopping_) return;
      if (error) {  // no descriptors left, mostly: others' connections end
        accept_timer_.expires_after(std::chrono::milliseconds(kRetryMs));
        accept_timer_.async_wait([this](error_code cancelled) {
          if (!cancelled) accept_next();
        });
        return;
      }
      try {
        take(std::move(socket));
      } catch (const std::exception&) {  // its socket closes; the next may come
      }
      accept_next();
    });
    accepting_ = true;
  }

  void take(tcp::socket socket) {
    if (connections_.size() >= options_.max_connections + kRefusedConnections) return;
    const uint64_t client = next_client_++;
    const auto connection = std::make_shared<ServerConnection>(std::move(socket), client, host_);
    connections_.emplace(client, connection);
    connection->start();
  }

  void gone(uint64_t client) {
    connections_.erase(client);
    if (stopping_ && connections_.empty()) end();
  }

  void stop() {
    stopping_ = true;
    error_code ignored;
    acceptor_.close(ignored);
    accept_timer_.cancel();
    stop_timer_.expires_after(std::chrono::milliseconds(kStopMs));
    stop_timer_.async_wait([this](error_code) { end(); });
    const auto open = connections_;
    for (const auto& [client, connection] : open) connection->close();
    if (connections_.empty()) end();
  }

  void end() {
    work_.reset();
    io_.stop();
  }

  const RpcServerOptions options_;
  ServerInbox inbox_;
  std::mutex mutex_;
  std::vector<std::pair<uint64_t, std::string>> to_send_;  // counted by the inbox, which bounds them
  std::vector<char> buffer_;
  ServerConnection::Host host_;
  asio::io_context io_{1};
  std::map<uint64_t, std::shared_ptr<ServerConnection>> connections_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  tcp::acceptor acceptor_;
  asio::steady_timer accept_timer_, stop_timer_;
  uint64_t next_client_ = 1;
  bool accepting_ = false, stopping_ = false;
  uint16_t port_ = 0;
  std::string address_;
  std::thread thread_;
};

RpcServer::RpcServer(const RpcServerOptions& options) : network_(std::make_unique<Network>(options)) {}
RpcServer::~RpcServer() = default;

uint16_t RpcServer::port() const {
  return network_->port();
}

const std::string& RpcServer::address() const {
  return network_->address();
}

std::optional<Incoming> RpcServer::poll() {
  std::vector<uint64_t> resumed;
  auto next = network_->inbox().pop(resumed);
  for (uint64_t client : resumed) {
    network_->with(client, [](ServerConnection& connection) { connection.resume(); });
  }
  return next;
}

void RpcServer::send(uint64_t client, std::string message) {
  switch (network_->inbox().reserve(client, message.size())) {
    case ServerInbox::Room::kIgnore:
      return;
    case ServerInbox::Room::kDrop:
      return network_->with(client, [](ServerConnection& connection) { connection.drop(); });
    case ServerInbox::Room::kSend:
      network_->send(client, std::move(message));
  }
}

void RpcServer::accept(uint64_t client) {
  network_->with(client, [](ServerConnection& connection) { connection.accept(); });
}

void RpcServer::close(uint64_t client, std::optional<std::string> last) {
  if (last) send(client, std::move(*last));
  network_->inbox().forget(client);
  network_->with(client, [](ServerConnection& connection) { connection.close(); });
}

}  // namespace coppice
