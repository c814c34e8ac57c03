#include "kernels/host_memory.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "common/base/check.h"
#include "common/base/error.h"

namespace coppice {
namespace {

constexpr size_t kAddressSpace = size_t(1) << 47;  // of a process on x86-64

struct SizeClass {
  int index;
  size_t bytes;
};

// Eight sizes to each doubling: a block is at most an eighth larger than what was asked for.
SizeClass size_class(size_t bytes) {
  bytes = std::max(bytes, HostMemory::kAlignment * 8);
  const int shift = std::bit_width(bytes - 1) - 4;
  const size_t eighths = (bytes - 1) >> shift;  // 8 to 15
  return {int(size_t(shift) * 8 + eighths - 8), (eighths + 1) << shift};
}

}  // namespace

HostMemory::~HostMemory() {
  CHECK(in_use_ == 0);  // a buffer or a weight has outlived its backend
  free_kept(0);
}

std::byte* HostMemory::take(size_t bytes) {
  const auto exhausted = [&] {
    return Error(ErrorCode::kExhausted,
                 fmt::format("memory of backend '{}' has run out: {} bytes asked for, {} in use", owner_,
                             bytes, in_use_));
  };
  if (bytes > kAddressSpace) throw exhausted();
  const SizeClass size = size_class(bytes);
  FreeBlock*& list = free_[size_t(size.index)];
  std::byte* block = reinterpret_cast<std::byte*>(list);
  if (block != nullptr) {
    list = list->next;
    kept_ -= size.bytes;
  } else {
    const size_t limit = std::max(peak_, kSmallestCache), needed = in_use_ + size.bytes;
    free_kept(needed < limit ? limit - needed : 0);
    block = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size.bytes));
    if (block == nullptr) {
      free_kept(0);
      block = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size.bytes));
    }
    if (block == nullptr) throw exhausted();
  }
  in_use_ += size.bytes;
  peak_ = std::max(peak_, in_use_);
  return block;
}

void HostMemory::give_back(std::byte* block, size_t bytes) noexcept {
  const SizeClass size = size_class(bytes);
  in_use_ -= size.bytes;
  FreeBlock*& list = free_[size_t(size.index)];
  list = new (block) FreeBlock{list};
  kept_ += size.bytes;
}

void HostMemory::free_kept(size_t at_most) {
  for (int i = kClasses - 1; i >= 0 && kept_ > at_most; --i) {
    const size_t bytes = (size_t(i % 8) + 9) << (i / 8);
    while (free_[size_t(i)] != nullptr && kept_ > at_most) {
      FreeBlock* block = free_[size_t(i)];
      free_[size_t(i)] = block->next;
      kept_ -= bytes;
      std::free(block);
    }
  }
}

}  // namespace coppice
