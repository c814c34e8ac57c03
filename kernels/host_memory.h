#pragma once
// The memory of a backend that computes in host memory: one range of addresses, of which as much is in use as
// the work once needed. Blocks are cut from it, aligned to 64 bytes, and come back to it; neighbours that are
// free become one block again, so that a pack of other lengths finds room where the one before lay. So once a
// run is warm nothing is asked of the system any more (fresh pages cost more than most operators), and no
// block is larger than what was asked for.
//
// A block is cut from the smallest free one that is large enough; the range grows where there is none.
// Memory that has been used is kept, since the next pack needs it again, until no block is in use at all.
//
// Thread: compute thread. Errors: kExhausted names the bytes asked for and in use; std::bad_alloc does not
// escape.

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>

namespace coppice {

class HostMemory {
 public:
  static constexpr size_t kAlignment = 64;

  explicit HostMemory(std::string owner) : owner_(std::move(owner)) {}
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::byte* take(size_t bytes);  // never null, also for 0 bytes
  void give_back(std::byte* block, size_t bytes) noexcept;

  size_t in_use_bytes() const { return in_use_; }
  size_t peak_bytes() const { return peak_; }   // of those in use
  size_t held_bytes() const { return top_; }    // in use or free, of the range as far as it has grown
  int64_t growths() const { return growths_; }  // times that the system was asked

 private:
  void reserve();            // the range of addresses, without memory
  size_t cut(size_t bytes);  // the offset of a free block of so many bytes
  void grow(size_t bytes);   // by at least so many: a free block at the end of the range
  void add_free(size_t begin, size_t bytes);
  void remove_free(size_t begin, size_t bytes);

  std::string owner_;
  std::byte* range_ = nullptr;
  size_t range_bytes_ = 0, usable_ = 0;          // reserved; as far as there is memory
  size_t top_ = 0;                               // behind the last block that was ever taken
  std::map<size_t, size_t> free_;                // offset to bytes, all below top_
  std::set<std::pair<size_t, size_t>> by_size_;  // (bytes, offset) of the same
  size_t in_use_ = 0, peak_ = 0;
  int64_t growths_ = 0;
};

}  // namespace coppice
