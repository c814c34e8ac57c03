#include "common/net/server_inbox.h"

#include <utility>

namespace coppice {
namespace {

constexpr size_t kMessageOverheadBytes = 64;  // of a message beside its bytes, so that empty ones count

}  // namespace

bool ServerInbox::open(uint64_t client) {
  const std::lock_guard lock(mutex_);
  if (clients_.size() >= options_.max_connections) return false;
  clients_.emplace(client, Client{});
  queue_.push_back({Incoming::Kind::kOpened, client, {}});
  return true;
}

bool ServerInbox::push(uint64_t client, std::string message) {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found == clients_.end() || found->second.forgotten) return true;
  queued_bytes_ += message.size();
  queue_.push_back({Incoming::Kind::kMessage, client, std::move(message)});
  const bool full =
      ++found->second.queued >= options_.queued_messages || queued_bytes_ > options_.queued_bytes;
  if (full) paused_.insert(client);
  return !full;
}

void ServerInbox::closed(uint64_t client) {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found == clients_.end() || found->second.gone) return;
  found->second.gone = true;
  paused_.erase(client);
  queue_.push_back({Incoming::Kind::kClosed, client, {}});
}

void ServerInbox::sent(uint64_t client, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found != clients_.end()) found->second.outgoing_bytes -= bytes + kMessageOverheadBytes;
}

std::optional<Incoming> ServerInbox::pop(std::vector<uint64_t>& resumed) {
  const std::lock_guard lock(mutex_);
  while (!queue_.empty()) {
    Incoming next = std::move(queue_.front());
    queue_.pop_front();
    const auto found = clients_.find(next.client);
    if (next.kind == Incoming::Kind::kMessage) {
      queued_bytes_ -= next.message.size();
      --found->second.queued;
      if (!paused_.empty()) find_resumed(resumed);
      if (found->second.forgotten) continue;
    } else if (next.kind == Incoming::Kind::kClosed) {
      clients_.erase(found);
    }
    return next;
  }
  return std::nullopt;
}

void ServerInbox::find_resumed(std::vector<uint64_t>& resumed) {
  if (queued_bytes_ > options_.queued_bytes / 2) return;
  for (auto next = paused_.begin(); next != paused_.end();) {
    const auto client = clients_.find(*next);
    if (client != clients_.end() && client->second.queued > options_.queued_messages / 2) {
      ++next;
      continue;
    }
    resumed.push_back(*next);
    next = paused_.erase(next);
  }
}

ServerInbox::Room ServerInbox::reserve(uint64_t client, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found == clients_.end() || found->second.gone || found->second.forgotten) return Room::kIgnore;
  size_t& outgoing = found->second.outgoing_bytes;
  const size_t more = bytes + kMessageOverheadBytes;
  // A single large answer to a client that reads is no backlog.
  if (bytes > kMaxFrameBytes || (outgoing > 0 && outgoing + more > options_.outgoing_bytes)) {
    found->second.forgotten = true;
    return Room::kDrop;
  }
  outgoing += more;
  return Room::kSend;
}

void ServerInbox::forget(uint64_t client) {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found != clients_.end()) found->second.forgotten = true;
}

}  // namespace coppice
