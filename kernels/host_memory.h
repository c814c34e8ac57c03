#pragma once
// The memory pool of a backend that computes in host memory: blocks aligned to 64 bytes, kept for reuse when
// they are given back, because fresh pages cost more than most operators. Blocks in use and blocks kept
// together never exceed the peak of the blocks in use (or kSmallestCache), so the pool never holds more than
// the work once needed. Its lists live inside the free blocks.
//
// Thread: compute thread. Errors: kExhausted names the bytes asked for and in use; std::bad_alloc does not
// escape.

#include <array>
#include <cstddef>
#include <string>

namespace coppice {

class HostMemory {
 public:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kSmallestCache = size_t(64) << 20;  // bytes

  explicit HostMemory(std::string owner) : owner_(std::move(owner)) {}
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::byte* take(size_t bytes);  // never null, also for 0 bytes
  void give_back(std::byte* block, size_t bytes) noexcept;

  size_t in_use_bytes() const { return in_use_; }
  size_t peak_bytes() const { return peak_; }
  size_t kept_bytes() const { return kept_; }

 private:
  struct FreeBlock {
    FreeBlock* next;
  };
  static constexpr int kClasses = 64 * 8;

  void free_kept(size_t at_most);  // frees the largest kept blocks until at_most bytes are kept

  std::string owner_;
  std::array<FreeBlock*, kClasses> free_{};
  size_t in_use_ = 0, peak_ = 0, kept_ = 0;
};

}  // namespace coppice
