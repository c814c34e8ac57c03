#include "common/net/server_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <exception>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/net/keep_alive.h"

namespace coppice {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr size_t kWrittenAtOnce = 32;               // messages
constexpr size_t kBytesAtOnce = size_t(256) << 10;  // begun

}  // namespace

ServerConnection::ServerConnection(asio::ip::tcp::socket socket, uint64_t client, Host& host)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      client_(client),
      host_(host),
      reader_(host.options.first_limit_bytes) {
  error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  keep_alive(socket_.native_handle());
}

// Whatever a client makes go wrong here, lack of memory included, ends its connection and nothing else.
template <typename Body>
void ServerConnection::guarded(const Body& body) {
  if (state_ == State::kGone) return;
  try {
    body();
  } catch (const std::exception&) {
    drop();
  }
}

void ServerConnection::start() {
  guarded([this] {
    if (!host_.inbox.open(client_)) {
      refuse(fmt::format("the server has {} connections, as many as it takes; try again later",
                         host_.options.max_connections));
      return;
    }
    announced_ = true;
    start_timer(host_.options.accept_ms, [this] {
      if (state_ != State::kFirst) return;
      refuse(fmt::format("no request came within {} s", double(host_.options.accept_ms) / 1000));
    });
    wait_readable();
  });
}

void ServerConnection::start_timer(int milliseconds, std::function<void()> body) {
  timer_.expires_after(std::chrono::milliseconds(milliseconds));
  timer_.async_wait([self = shared_from_this(), body = std::move(body)](error_code error) {
    if (!error) self->guarded(body);
  });
}

void ServerConnection::wait_readable() {
  if (waiting_) return;
  waiting_ = true;
  socket_.async_wait(asio::ip::tcp::socket::wait_read, [self = shared_from_this()](error_code error) {
    self->waiting_ = false;
    self->guarded([&] { error ? self->drop() : self->readable(); });
  });
}

void ServerConnection::readable() {
  error_code error;
  const size_t bytes = socket_.read_some(asio::buffer(host_.buffer.data(), host_.buffer.size()), error);
  if (error == asio::error::would_block || error == asio::error::interrupted) return wait_readable();
  if (error) return drop();
  if (state_ == State::kClosing) return wait_readable();
  reader_.append({host_.buffer.data(), bytes});
  deliver();
}

void ServerConnection::deliver() {
  while ((state_ == State::kFirst || state_ == State::kAccepted) && !paused_) {
    std::optional<Frame> frame;
    try {
      frame = reader_.next();
    } catch (const Error& error) {
      return refuse(error.what());
    }
    if (!frame) return wait_readable();
    if (frame->refusal) return drop();
    if (state_ == State::kFirst) {
      state_ = State::kUndecided;
      timer_.cancel();
    }
    paused_ = !host_.inbox.push(client_, std::move(frame->message));
  }
}

void ServerConnection::accept() {
  guarded([this] {
    if (state_ != State::kUndecided) return;
    state_ = State::kAccepted;
    reader_.set_limit(host_.options.limit_bytes);
    deliver();
  });
}

void ServerConnection::resume() {
  guarded([this] {
    paused_ = false;
    deliver();
  });
}

void ServerConnection::refuse(const std::string& why) {
  guarded([&] {
    const std::string line = one_line(why);
    queue({frame_header(line.size(), kRefusalVersion), line});
    close();
  });
}

void ServerConnection::send(std::string message) {
  guarded([&] {
    if (state_ == State::kClosing) return;
    std::string header = frame_header(message.size());
    queue({std::move(header), std::move(message), true});
  });
}

void ServerConnection::queue(Outgoing outgoing) {
  outgoing_.push_back(std::move(outgoing));
  if (writing_ == 0) write_next();
}

// Small messages go out together: one call of the system for each would cost more than all else.
void ServerConnection::write_next() {
  std::vector<asio::const_buffer> parts;
  size_t bytes = 0;
  for (const Outgoing& next : outgoing_) {
    if (writing_ == kWrittenAtOnce || bytes > kBytesAtOnce) break;
    parts.push_back(asio::buffer(next.header));
    parts.push_back(asio::buffer(next.message));
    bytes += next.header.size() + next.message.size();
    ++writing_;
  }
  asio::async_write(socket_, parts, [self = shared_from_this()](error_code error, size_t) {
    self->guarded([&] { error ? self->drop() : self->written(); });
  });
}

void ServerConnection::written() {
  for (; writing_ > 0; --writing_) {
    const Outgoing& done = outgoing_.front();
    if (done.counted) host_.inbox.sent(client_, done.message.size());
    outgoing_.pop_front();
  }
  if (!outgoing_.empty()) return write_next();
  if (state_ == State::kClosing) finish_sending();
}

void ServerConnection::close() {
  guarded([this] {
    if (state_ == State::kClosing) return;
    state_ = State::kClosing;
    reader_ = FrameReader(0);
    start_timer(host_.options.linger_ms, [this] { drop(); });
    if (outgoing_.empty()) finish_sending();
    wait_readable();
  });
}

void ServerConnection::finish_sending() {
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
}

void ServerConnection::drop() {
  if (state_ == State::kGone) return;
  state_ = State::kGone;
  const auto self = shared_from_this();  // gone() lets go of it
  timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
  if (announced_) host_.inbox.closed(client_);
  host_.gone(client_);
}

}  // namespace coppice
