#include "kernels/host_memory.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <new>

#include "common/base/check.h"
#include "common/base/error.h"

namespace coppice {
namespace {

constexpr size_t kAddressSpace = size_t(1) << 47;  // of a process on x86-64
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kGrowth = size_t(16)
                           << 20;  // asked of the system at a time; what is not touched costs nothing

size_t round_up(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

size_t block_bytes(size_t bytes) {
  return round_up(std::max<size_t>(bytes, 1), HostMemory::kAlignment);
}

// As much as the machine could ever give. Where the address space is limited (ulimit -v), half of that: the
// rest of the process, its threads' stacks and its files, needs addresses as well.
size_t most_range_bytes() {
  const size_t memory = size_t(::sysconf(_SC_PHYS_PAGES)) * size_t(::sysconf(_SC_PAGESIZE));
  rlimit limit{};
  const bool limited = ::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return limited ? std::min<size_t>(2 * memory, limit.rlim_cur / 2) : 2 * memory;
}

}  // namespace

HostMemory::~HostMemory() {
  CHECK(in_use_ == 0);  // a buffer or a weight has outlived its backend
  if (range_ == nullptr) return;
  ASAN_UNPOISON_MEMORY_REGION(range_, top_);
  ::munmap(range_, range_bytes_);
}

std::byte* HostMemory::take(size_t bytes) {
  const auto exhausted = [&] {
    return Error(ErrorCode::kExhausted,
                 fmt::format("memory of backend '{}' has run out: {} bytes asked for, {} in use", owner_,
                             bytes, in_use_));
  };
  if (bytes > kAddressSpace) throw exhausted();
  const size_t size = block_bytes(bytes);
  size_t begin = 0;
  try {
    begin = cut(size);
  } catch (const std::bad_alloc&) {
    throw exhausted();
  }
  in_use_ += size;
  peak_ = std::max(peak_, in_use_);
  return range_ + begin;
}

size_t HostMemory::cut(size_t bytes) {
  auto fits = by_size_.lower_bound({bytes, 0});
  if (fits == by_size_.end()) {
    grow(bytes);
    fits = by_size_.lower_bound({bytes, 0});
  }
  const auto [size, begin] = *fits;
  remove_free(begin, size);
  if (size > bytes) add_free(begin + bytes, size - bytes);
  ASAN_UNPOISON_MEMORY_REGION(range_ + begin, bytes);
  return begin;
}

// A free block at the end of the range grows by what it lacks.
void HostMemory::grow(size_t bytes) {
  if (range_ == nullptr) reserve();
  size_t begin = top_;
  if (!free_.empty()) {
    const auto [last, size] = *free_.rbegin();
    if (last + size == top_) begin = last;
  }
  if (bytes > range_bytes_ - begin) throw std::bad_alloc();
  const size_t end = begin + bytes;
  if (end > usable_) {
    const size_t usable = std::min(range_bytes_, round_up(end, kGrowth));
    if (::mprotect(range_ + usable_, usable - usable_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    // Fewer misses of the table of pages, and fewer faults; where the system knows no huge pages, none.
    ::madvise(range_ + usable_, usable - usable_, MADV_HUGEPAGE);
    usable_ = usable;
    ++growths_;
  }
  if (begin < top_) remove_free(begin, top_ - begin);
  add_free(begin, bytes);
  ASAN_POISON_MEMORY_REGION(range_ + top_, end - top_);
  top_ = end;
}

void HostMemory::reserve() {
  for (size_t bytes = round_up(most_range_bytes(), kHugePage); bytes >= kGrowth;
       bytes = round_up(bytes / 2, kHugePage)) {
    void* const found = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) continue;
    range_ = static_cast<std::byte*>(found);
    range_bytes_ = bytes;
    return;
  }
  throw std::bad_alloc();
}

void HostMemory::give_back(std::byte* block, size_t bytes) noexcept {
  size_t begin = size_t(block - range_), size = block_bytes(bytes);
  in_use_ -= size;
  ASAN_POISON_MEMORY_REGION(block, size);  // AddressSanitizer: what was given back may not be touched
  const auto after = free_.find(begin + size);
  if (after != free_.end()) {
    const size_t more = after->second;
    remove_free(begin + size, more);
    size += more;
  }
  const auto next = free_.lower_bound(begin);
  if (next != free_.begin()) {
    const auto [before, more] = *std::prev(next);
    if (before + more == begin) {
      remove_free(before, more);
      begin = before;
      size += more;
    }
  }
  add_free(begin, size);
  // What was measured or checked before a run is not kept beside it, nor on a rank that computes no more.
  if (in_use_ == 0 && top_ >= kGrowth) ::madvise(range_, top_, MADV_DONTNEED);
}

void HostMemory::add_free(size_t begin, size_t bytes) {
  free_.emplace(begin, bytes);
  by_size_.emplace(bytes, begin);
}

void HostMemory::remove_free(size_t begin, size_t bytes) {
  free_.erase(begin);
  by_size_.erase({bytes, begin});
}

}  // namespace coppice
