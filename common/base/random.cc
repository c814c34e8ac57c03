#include "common/base/random.h"

#include <cmath>
#include <numbers>

namespace coppice {

std::array<uint32_t, 4> philox(uint64_t key, const std::array<uint32_t, 4>& counter) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  auto [x0, x1, x2, x3] = counter;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = kMultiplier0 * x0, p1 = kMultiplier1 * x2;
    x0 = uint32_t(p1 >> 32) ^ x1 ^ k0;
    x1 = uint32_t(p1);
    x2 = uint32_t(p0 >> 32) ^ x3 ^ k1;
    x3 = uint32_t(p0);
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return {x0, x1, x2, x3};
}

uint64_t stream_key(uint64_t seed, Purpose purpose, std::initializer_list<uint64_t> words) {
  uint64_t key = seed;
  auto absorb = [&key](uint64_t word, uint32_t tag) {
    const auto out = philox(key, {uint32_t(word), uint32_t(word >> 32), tag, 0});
    key = uint64_t(out[1]) << 32 | out[0];
  };
  absorb(uint64_t(purpose), 1);
  for (uint64_t word : words) absorb(word, 2);
  return key;
}

uint64_t name_hash(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

uint32_t Random::next() {
  if (left_ == 0) {
    words_ = philox(key_, {uint32_t(block_), uint32_t(block_ >> 32), 0, 0});
    ++block_;
    left_ = 4;
  }
  return words_[size_t(4 - left_--)];
}

uint64_t Random::below(uint64_t bound) {
  const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
  for (;;) {
    const uint64_t low = next();
    const uint64_t value = uint64_t(next()) << 32 | low;
    if (value < limit) return value % bound;
  }
}

double Random::uniform() {
  const uint64_t low = next();
  return double((uint64_t(next()) << 32 | low) >> 11) * 0x1p-53;
}

double Random::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

}  // namespace coppice
