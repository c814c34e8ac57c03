// The product on tile registers, with registers in memory that do what Intel's manual says of TDPBF16PS
// (volume 2, TDPBF16PS, "Operation"), so that all around the instructions is tested on every processor with
// AVX-512. With AMX bf16_gemm_test.cc tests the same on the registers themselves, and here they are compared.

#include "kernels/cpu/tile_gemm-inl.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/base/random.h"
#include "kernels/cpu/instruction_set.h"

namespace coppice {
namespace {

using native::kSide;
using native::TileRows;

float earlier(Pair pair) {
  return std::bit_cast<float>(pair << 16);
}
float later(Pair pair) {
  return std::bit_cast<float>(pair & 0xffff0000);
}

struct RegistersInMemory {
  static inline native::Tile tiles[8];

  static void configure() {}
  template <int kTile>
  static void zero() {
    static_assert(kTile >= 0 && kTile < 8);
    tiles[kTile] = {};
  }
  template <int kTile>
  static void load(TileRows rows) {
    static_assert(kTile >= 0 && kTile < 8);
    for (int64_t r = 0; r < kSide; ++r)
      std::memcpy(tiles[kTile].words + r * kSide,
                  static_cast<const std::byte*>(rows.data) + r * rows.stride_bytes, 64);
  }
  template <int kTile>
  static void store(void* to, int64_t stride_bytes) {
    for (int64_t r = 0; r < kSide; ++r)
      std::memcpy(static_cast<std::byte*>(to) + r * stride_bytes, tiles[kTile].words + r * kSide, 64);
  }
  template <int kSum, int kLeft, int kRight>
  static void multiply() {
    static_assert(kSum != kLeft && kLeft != kRight && kSum != kRight);
    for (int64_t row = 0; row < kSide; ++row) {
      for (int64_t col = 0; col < kSide; ++col) {
        float even = 0, odd = 0;
        for (int64_t k = 0; k < kSide; ++k) {
          const Pair left = tiles[kLeft].words[row * kSide + k], right = tiles[kRight].words[k * kSide + col];
          even = std::fma(earlier(left), earlier(right), even);
          odd = std::fma(later(left), later(right), odd);
        }
        Pair& word = tiles[kSum].words[row * kSide + col];
        word = std::bit_cast<Pair>(std::bit_cast<float>(word) + (even + odd));
      }
    }
  }
};

// Operands at addresses that nothing is aligned to, of random values without denormals; beyond them NaN,
// which no product may meet.
struct Operands {
  int64_t rows, cols, pairs, a_stride, b_stride, c_stride;
  bool along;
  std::vector<Pair> a, b;
  std::vector<float> c;

  static constexpr Pair kNan = 0x7fc07fc0;

  Operands(int64_t rows, int64_t cols, int64_t pairs, bool along)
      : rows(rows),
        cols(cols),
        pairs(pairs),
        a_stride((along ? pairs : rows) + 1),
        b_stride(cols + 2),
        c_stride(cols + 3),
        along(along),
        a(size_t((along ? rows : pairs) * a_stride + 1), kNan),
        b(size_t(pairs * b_stride + 1), kNan),
        c(size_t(rows * c_stride + 1), 0.75f) {
    Random random(uint64_t(rows * 7919 + cols * 131 + pairs));
    const auto pair = [&] {
      const auto half = [&] { return std::bit_cast<Pair>(float(random.uniform() * 4 - 2)) >> 16; };
      const Pair low = half();
      return low | half() << 16;
    };
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < pairs; ++k) const_cast<Pair&>(*left(r, k).data) = pair();
    for (int64_t k = 0; k < pairs; ++k)
      for (int64_t col = 0; col < cols; ++col) b[size_t(1 + k * b_stride + col)] = pair();
  }
  PairsOfRows left(int64_t row, int64_t pair) const {
    return along ? PairsOfRows{a.data() + 1 + row * a_stride + pair, a_stride, 1}
                 : PairsOfRows{a.data() + 1 + row + pair * a_stride, 1, a_stride};
  }
  void multiply(int64_t from_row, int64_t to_row, int64_t from_pair, int64_t to_pair, float alpha,
                PairStore store) {
    native::multiply_pairs_in_tiles<RegistersInMemory>(
        to_row - from_row, cols, to_pair - from_pair, left(from_row, from_pair),
        b.data() + 1 + from_pair * b_stride, b_stride, c.data() + 1 + from_row * c_stride, c_stride, alpha,
        store, {});
  }
  void multiply(float alpha, PairStore store) { multiply(0, rows, 0, pairs, alpha, store); }

  // Element (r, col): tiles of pairs one after the other, as the manual sums them.
  float chain(int64_t r, int64_t col, float sum) const {
    for (int64_t begin = 0; begin < pairs; begin += kSide) {
      float even = 0, odd = 0;
      for (int64_t k = begin; k < std::min(pairs, begin + kSide); ++k) {
        const Pair x = *left(r, k).data, y = b[size_t(1 + k * b_stride + col)];
        even = std::fma(earlier(x), earlier(y), even);
        odd = std::fma(later(x), later(y), odd);
      }
      sum += even + odd;
    }
    return sum;
  }
};

class TileGemmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cpu_instruction_set() == "avx2" || cpu_instruction_set() == "none")
      GTEST_SKIP() << "no AVX-512 on " << cpu_instruction_set();
  }
};

struct Case {
  int64_t rows, cols, pairs;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  for (int64_t rows : {1, 15, 16, 17, 31, 32, 33, 65})
    for (int64_t cols : {1, 8, 16, 17, 32, 33, 48, 49, 64, 65, 112}) all.push_back({rows, cols, 19});
  for (int64_t pairs : {0, 1, 8, 15, 16, 17, 32, 127, 128, 129, 300}) all.push_back({37, 50, pairs});
  return all;
}

TEST_F(TileGemmTest, EveryElementIsOneChainOfTilesAndNothingElseIsTouched) {
  for (const Case& shape : cases()) {
    for (bool along : {true, false}) {
      for (PairStore store : {PairStore::kOverwrite, PairStore::kAccumulate, PairStore::kGoOn}) {
        for (float alpha : {1.0f, 0.3f}) {
          Operands x(shape.rows, shape.cols, shape.pairs, along);
          const std::vector<float> before = x.c;
          x.multiply(alpha, store);
          for (int64_t i = 0; i < int64_t(x.c.size()); ++i) {
            const int64_t r = (i - 1) / x.c_stride, col = (i - 1) % x.c_stride;
            float wanted = before[size_t(i)];
            if (i > 0 && col < x.cols) {
              const float sum = x.chain(r, col, store == PairStore::kGoOn ? wanted : 0);
              wanted = store == PairStore::kAccumulate ? wanted + alpha * sum : alpha * sum;
            }
            ASSERT_EQ(x.c[size_t(i)], wanted)
                << fmt::format("{} x {} over {}, along {}, store {}, alpha {}: row {} column {}", x.rows,
                               x.cols, x.pairs, along, int(store), alpha, r, col);
          }
        }
      }
    }
  }
}

TEST_F(TileGemmTest, RowsAndDepthMayBeCut) {
  for (bool along : {true, false}) {
    Operands whole(45, 50, 300, along), parts = whole;
    whole.multiply(1, PairStore::kOverwrite);
    for (const auto& [from, to] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {1, 34}, {34, 45}}) {
      parts.multiply(from, to, 0, 32, 1, PairStore::kOverwrite);
      parts.multiply(from, to, 32, 48, 1, PairStore::kGoOn);
      parts.multiply(from, to, 48, 300, 1, PairStore::kGoOn);
    }
    EXPECT_EQ(whole.c, parts.c);
  }
}

TEST_F(TileGemmTest, TheProcessorsRegistersDoTheSame) {
  if (!has_amx()) GTEST_SKIP() << "no AMX on " << cpu_instruction_set();
  for (const Case& shape : cases()) {
    Operands in_memory(shape.rows, shape.cols, shape.pairs, true), processor = in_memory;
    in_memory.multiply(0.3f, PairStore::kAccumulate);
    multiply_pairs(shape.rows, shape.cols, shape.pairs, processor.left(0, 0), processor.b.data() + 1,
                   processor.b_stride, processor.c.data() + 1, processor.c_stride, 0.3f,
                   PairStore::kAccumulate);
    EXPECT_EQ(in_memory.c, processor.c)
        << fmt::format("{} x {} over {}", shape.rows, shape.cols, shape.pairs);
  }
}

}  // namespace
}  // namespace coppice
