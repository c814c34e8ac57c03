#include <deque>

#include "common/base/check.h"
#include "common/transport/transport.h"

namespace coppice {
namespace {

using Inboxes = std::vector<std::deque<Message>>;

class Loopback : public Transport {
 public:
  Loopback(int rank, std::shared_ptr<Inboxes> inboxes) : rank_(rank), inboxes_(std::move(inboxes)) {}

  int rank() const override { return rank_; }
  int size() const override { return int(inboxes_->size()); }

  void send(int to, Message message) override {
    CHECK(to >= 0 && to < size());
    message.from = rank_;
    (*inboxes_)[size_t(to)].push_back(std::move(message));
  }

  std::optional<Message> receive() override {
    auto& inbox = (*inboxes_)[size_t(rank_)];
    if (inbox.empty()) return std::nullopt;
    Message message = std::move(inbox.front());
    inbox.pop_front();
    return message;
  }

 private:
  int rank_;
  std::shared_ptr<Inboxes> inboxes_;
};

}  // namespace

std::vector<std::unique_ptr<Transport>> make_loopback(int size) {
  CHECK(size >= 1);
  auto inboxes = std::make_shared<Inboxes>(size_t(size));
  std::vector<std::unique_ptr<Transport>> ends;
  for (int rank = 0; rank < size; ++rank) ends.push_back(std::make_unique<Loopback>(rank, inboxes));
  return ends;
}

}  // namespace coppice
