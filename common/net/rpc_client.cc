#include "common/net/rpc_client.h"

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <optional>
#include <utility>

#include "common/base/error.h"
#include "common/net/address.h"
#include "common/net/keep_alive.h"

namespace coppice {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

class RpcClient::Connection {
 public:
  explicit Connection(const RpcClientOptions& options)
      : options_(options),
        server_(address_text(parse_address(options.server))),
        socket_(io_),
        reader_(options.limit_bytes) {
    const Address address = parse_address(options.server);
    error_code error;
    const auto found = tcp::resolver(io_).resolve(address.host, std::to_string(address.port), error);
    if (error) throw not_found("{}: the host is not known: {}", server_, error.message());
    const auto result = finish(options.connect_ms, [&](auto done) {
      asio::async_connect(socket_, found, [done](error_code error, const tcp::endpoint&) { done(error); });
    });
    if (!result) throw late("no server has answered", options.connect_ms);
    if (*result) {
      throw not_found("{}: no server can be reached: {}; coppice serve starts one", server_,
                      result->message());
    }
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    keep_alive(socket_.native_handle());
  }

  const std::string& server() const { return server_; }

  void send(std::string_view message) {
    if (message.size() > options_.limit_bytes) {
      throw invalid("{}: a request of {} bytes is too large; at most {} are accepted", server_,
                    message.size(), options_.limit_bytes);
    }
    const std::string header = frame_header(message.size());
    const std::array<asio::const_buffer, 2> parts = {asio::buffer(header), asio::buffer(message)};
    const auto result = finish(options_.send_ms, [&](auto done) {
      asio::async_write(socket_, parts, [done](error_code error, size_t) { done(error); });
    });
    if (!result) throw late("the server has not taken the request", options_.send_ms);
    if (!*result) return;
    for (int i = 0; i < 16; ++i) receive(options_.connect_ms);  // throws what it said before it closed
    throw not_found("{}: the server has closed the connection: {}", server_, result->message());
  }

  std::string receive(int timeout_ms) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    for (;;) {
      if (auto message = whole()) return *std::move(message);
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      size_t bytes = 0;
      const auto result = finish(timeout_ms < 0 ? -1 : std::max(int(left.count()), 0), [&](auto done) {
        socket_.async_read_some(asio::buffer(buffer_), [done, &bytes](error_code error, size_t count) {
          bytes = count;
          done(error);
        });
      });
      if (!result) throw late("the server has not answered", timeout_ms);
      if (*result) {
        throw not_found("{}: the server has closed the connection{}", server_,
                        *result == asio::error::eof ? "" : ": " + result->message());
      }
      reader_.append({buffer_.data(), bytes});
    }
  }

 private:
  // Runs one operation to its end; nothing where it took longer, and then it is cancelled.
  template <typename Start>
  std::optional<error_code> finish(int timeout_ms, const Start& start) {
    std::optional<error_code> result;
    start([&result](error_code error) { result = error; });
    io_.restart();
    if (timeout_ms < 0) {
      io_.run();
    } else {
      io_.run_for(std::chrono::milliseconds(timeout_ms));
    }
    if (result) return result;
    error_code ignored;
    socket_.close(ignored);
    io_.restart();
    io_.run();  // the cancelled operation lets go of what it borrowed
    return std::nullopt;
  }

  std::optional<std::string> whole() {
    std::optional<Frame> frame;
    try {
      frame = reader_.next();
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: {}", server_, error.what()));
    }
    if (!frame) return std::nullopt;
    if (frame->refusal) throw invalid("{}: the server refuses: {}", server_, one_line(frame->message));
    return std::move(frame->message);
  }

  Error late(std::string_view what, int timeout_ms) const {
    return Error(ErrorCode::kBusy,
                 fmt::format("{}: {} within {} s", server_, what, double(timeout_ms) / 1000));
  }

  const RpcClientOptions options_;
  const std::string server_;
  asio::io_context io_{1};
  tcp::socket socket_;
  FrameReader reader_;
  std::array<char, size_t(64) << 10> buffer_;
};

RpcClient::RpcClient(const RpcClientOptions& options) : connection_(std::make_unique<Connection>(options)) {}
RpcClient::~RpcClient() = default;

const std::string& RpcClient::server() const {
  return connection_->server();
}

void RpcClient::send(std::string_view message) {
  connection_->send(message);
}

std::string RpcClient::receive(int timeout_ms) {
  return connection_->receive(timeout_ms);
}

}  // namespace coppice
