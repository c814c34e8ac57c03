#pragma once
// Memory for blocks that arrive: whole pages, not filled before the data come. A block that is let go of is
// kept for the next one of its size, since pages fresh from the system cost more than the copy between two
// processes (three to five times at a few MiB). What is kept is bounded; blocks may outlive the pool.
//
// Thread: any. Errors: kExhausted where there is no memory.

#include <map>
#include <memory>
#include <mutex>

#include "common/transport/transport.h"

namespace coppice {

class ReceivedBlock : public Payload {
 public:
  virtual std::byte* fill() = 0;
};

class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  static std::shared_ptr<BlockPool> create(size_t max_kept_bytes);
  ~BlockPool();

  std::unique_ptr<ReceivedBlock> take(size_t bytes);
  size_t kept_bytes() const;

 private:
  class Block;
  explicit BlockPool(size_t max_kept_bytes) : max_kept_bytes_(max_kept_bytes) {}
  void give_back(std::byte* data, size_t capacity_bytes);

  const size_t max_kept_bytes_;
  mutable std::mutex mutex_;
  size_t kept_bytes_ = 0;
  std::multimap<size_t, std::byte*> kept_;  // by capacity
};

}  // namespace coppice
