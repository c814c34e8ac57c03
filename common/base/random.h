#pragma once
// Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// Everything random in Coppice (dropout, shuffling, initial values, sampling) is a pure function of a key and a counter,
// so it can be computed again anywhere, in any order, on any device. Thread: any; nothing here has state but Random.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace coppice {

// Four random words for one counter under one key.
std::array<uint32_t, 4> philox(uint64_t key, const std::array<uint32_t, 4>& counter);

// What a stream is for: streams of different purpose never meet, whatever else they share.
enum class Purpose : uint32_t { kInitialValue = 1, kDropout = 2, kShuffle = 3, kSampling = 4, kSplit = 5 };

// The key of a stream: a 64-bit hash of (seed, purpose, words...), e.g. step, layer, module.
uint64_t stream_key(uint64_t seed, Purpose purpose, std::initializer_list<uint64_t> words);

// A stable 64-bit hash of a name (FNV-1a), to put names into stream_key.
uint64_t name_hash(std::string_view name);

// Draws from one stream in order. Not for anything that several places must agree on: use philox with a counter there.
class Random {
 public:
  explicit Random(uint64_t key) : key_(key) {}
  uint32_t next();
  uint64_t below(uint64_t bound);  // uniform in [0, bound), without bias; bound > 0
  double uniform();                // in [0, 1), 53 bits
  double normal();                 // mean 0, variance 1 (Box-Muller)

 private:
  uint64_t key_;
  uint64_t block_ = 0;
  std::array<uint32_t, 4> words_{};
  int left_ = 0;
};

}  // namespace coppice
