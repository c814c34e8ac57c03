#include "common/transport/block_pool.h"

#include <cstdlib>

#include "common/base/error.h"

namespace coppice {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kSmallBytes = 64 * 1024;  // up to here the allocator's own lists are as good
constexpr size_t kStepBytes =
    256 * 1024;  // packs differ by a few rows: their blocks still fit each other's memory

size_t capacity_for(size_t bytes) {
  const size_t step = bytes <= kSmallBytes ? kPageBytes : kStepBytes;
  return (bytes + step - 1) / step * step;
}

}  // namespace

class BlockPool::Block : public ReceivedBlock {
 public:
  Block(std::shared_ptr<BlockPool> pool, std::byte* data, size_t bytes, size_t capacity_bytes)
      : pool_(std::move(pool)), data_(data), bytes_(bytes), capacity_bytes_(capacity_bytes) {}
  ~Block() override { pool_->give_back(data_, capacity_bytes_); }
  const std::byte* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }
  std::byte* fill() override { return data_; }

 private:
  std::shared_ptr<BlockPool> pool_;
  std::byte* data_;
  size_t bytes_;
  size_t capacity_bytes_;
};

std::shared_ptr<BlockPool> BlockPool::create(size_t max_kept_bytes) {
  return std::shared_ptr<BlockPool>(new BlockPool(max_kept_bytes));
}

BlockPool::~BlockPool() {
  for (const auto& [capacity_bytes, data] : kept_) std::free(data);
}

std::unique_ptr<ReceivedBlock> BlockPool::take(size_t bytes) {
  size_t capacity_bytes = capacity_for(bytes);
  std::byte* data = nullptr;
  if (capacity_bytes > kSmallBytes) {
    const std::lock_guard lock(mutex_);
    // Not one of more than twice the size: a large block is rare and should wait for its like.
    if (const auto fits = kept_.lower_bound(capacity_bytes);
        fits != kept_.end() && fits->first / 2 <= capacity_bytes) {
      capacity_bytes = fits->first;
      data = fits->second;
      kept_bytes_ -= capacity_bytes;
      kept_.erase(fits);
    }
  }
  if (!data && bytes > 0) {
    data = static_cast<std::byte*>(std::aligned_alloc(kPageBytes, capacity_bytes));
    if (!data)
      throw Error(ErrorCode::kExhausted,
                  fmt::format("no memory for a block of {} bytes from another rank", bytes));
  }
  return std::make_unique<Block>(shared_from_this(), data, bytes, capacity_bytes);
}

void BlockPool::give_back(std::byte* data, size_t capacity_bytes) {
  if (capacity_bytes > kSmallBytes) {
    const std::lock_guard lock(mutex_);
    if (kept_bytes_ + capacity_bytes <= max_kept_bytes_) {
      kept_.emplace(capacity_bytes, data);
      kept_bytes_ += capacity_bytes;
      return;
    }
  }
  std::free(data);
}

size_t BlockPool::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

}  // namespace coppice
