#include "kernels/cpu/bf16_gemm.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "common/base/random.h"
#include "common/tensor/dtype.h"
#include "kernels/cpu/bf16_gemm_native.h"
#include "kernels/cpu/instruction_set.h"

namespace coppice {
namespace {

constexpr Pair kUntouched = 0xabababab;

// As the backend does before its first kernel.
[[maybe_unused]] const bool chosen = has_avx2();

// VCVTNE2PS2BF16, as Intel's manual has it.
Pair half_of(float value) {
  if (std::fpclassify(value) == FP_SUBNORMAL) return std::signbit(value) ? 0x8000 : 0;
  return to_bf16(value);
}
Pair pair_of(float first, float second) {
  return half_of(first) | half_of(second) << 16;
}

// Every kind of value there is, and its neighbours.
std::vector<float> special_values() {
  std::vector<float> values = {0.0f, -0.0f};
  const uint32_t bits[] = {0x00000001, 0x007fffff, 0x007f8000, 0x00800000, 0x00800001, 0x3f800000, 0x3f808000,
                           0x3f808001, 0x3f818000, 0x3f817fff, 0x7f7f7fff, 0x7f7f8000, 0x7f7fffff, 0x7f800000,
                           0x7f800001, 0x7f80ffff, 0x7fbfffff, 0x7fc00000, 0x7fffffff};
  for (uint32_t each : bits) {
    values.push_back(std::bit_cast<float>(each));
    values.push_back(std::bit_cast<float>(each | 0x80000000));
  }
  return values;
}

// Rows of random values with the special ones among them, at an address that no vector is aligned to.
struct Rows {
  std::vector<float> values;
  int64_t rows, cols, stride;

  Rows(int64_t rows, int64_t cols, bool special)
      : values(size_t(rows * (cols + 3) + 1)), rows(rows), cols(cols), stride(cols + 3) {
    Random random(uint64_t(rows * 1000 + cols));
    const std::vector<float> specials = special_values();
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = float(random.uniform() * 4 - 2);
      if (special && i % 3 == 0) values[i] = specials[i / 3 % specials.size()];
    }
  }
  const float* data() const { return values.data() + 1; }
  float at(int64_t r, int64_t c) const { return r < rows && c < cols ? data()[r * stride + c] : 0; }
};

using Sizes = std::vector<std::pair<int64_t, int64_t>>;
const Sizes kSizes = {{1, 1},   {1, 2},   {2, 1},   {3, 7},   {7, 15},  {8, 16},  {9, 17},  {15, 31},
                      {16, 32}, {17, 33}, {31, 47}, {32, 64}, {33, 65}, {5, 300}, {70, 130}};

// pack(from, rows, cols, stride, to, to_stride) must give expected(r, c) for r < to_rows, c < to_cols, and
// touch nothing else.
template <typename Pack, typename Expected>
void expect_packed(const Rows& rows, int64_t to_rows, int64_t to_cols, const Pack& pack,
                   const Expected& expected) {
  const int64_t to_stride = to_cols + 2;
  std::vector<Pair> to(size_t(to_rows * to_stride + 1), kUntouched);
  pack(rows.data(), rows.rows, rows.cols, rows.stride, to.data() + 1, to_stride);
  EXPECT_EQ(to[0], kUntouched);
  for (int64_t r = 0; r < to_rows; ++r) {
    for (int64_t c = 0; c < to_stride; ++c) {
      const Pair wanted = c < to_cols ? expected(r, c) : kUntouched;
      const Pair found = to[size_t(1 + r * to_stride + c)];
      if (found == wanted) continue;
      ADD_FAILURE() << fmt::format("[{}, {}] row {} column {}: {:08x} instead of {:08x}", rows.rows,
                                   rows.cols, r, c, found, wanted);
      return;
    }
  }
}

TEST(Bf16PackTest, RoundsAsTheInstructionDoesWhateverTheOrder) {
  for (bool special : {false, true}) {
    for (const auto& [r, c] : kSizes) {
      const Rows x(r, c, special);
      using Pack = void (*)(const float*, int64_t, int64_t, int64_t, Pair*, int64_t);
      expect_packed(x, r, pairs_of(c), Pack(pack_pairs_along),
                    [&](int64_t i, int64_t k) { return pair_of(x.at(i, 2 * k), x.at(i, 2 * k + 1)); });
      expect_packed(x, pairs_of(r), c, Pack(pack_pairs_across),
                    [&](int64_t k, int64_t i) { return pair_of(x.at(2 * k, i), x.at(2 * k + 1, i)); });
      expect_packed(x, pairs_of(c), r, Pack(pack_pairs_transposed),
                    [&](int64_t k, int64_t i) { return pair_of(x.at(i, 2 * k), x.at(i, 2 * k + 1)); });
    }
  }
}

TEST(Bf16PackTest, TakesWhatIsBfloat16AlreadyAsItIs) {
  for (const auto& [r, c] : kSizes) {
    const Rows x(r, c, true);
    std::vector<uint16_t> halves(x.values.size());
    std::transform(x.values.begin(), x.values.end(), halves.begin(), to_bf16);
    const auto at = [&](int64_t i, int64_t k) {
      return i < x.rows && k < x.cols ? Pair(halves[size_t(1 + i * x.stride + k)]) : 0;
    };
    const auto of_halves = [&](auto pack) {
      return
          [&halves, pack](const float*, int64_t rows, int64_t cols, int64_t stride, Pair* to,
                          int64_t to_stride) { pack(halves.data() + 1, rows, cols, stride, to, to_stride); };
    };
    using Pack = void (*)(const uint16_t*, int64_t, int64_t, int64_t, Pair*, int64_t);
    expect_packed(x, r, pairs_of(c), of_halves(Pack(pack_pairs_along)),
                  [&](int64_t i, int64_t k) { return at(i, 2 * k) | at(i, 2 * k + 1) << 16; });
    expect_packed(x, pairs_of(r), c, of_halves(Pack(pack_pairs_across)),
                  [&](int64_t k, int64_t i) { return at(2 * k, i) | at(2 * k + 1, i) << 16; });
    expect_packed(x, pairs_of(c), r, of_halves(Pack(pack_pairs_transposed)),
                  [&](int64_t k, int64_t i) { return at(i, 2 * k) | at(i, 2 * k + 1) << 16; });
  }
}

float earlier(Pair pair) {
  return std::bit_cast<float>(pair << 16);
}
float later(Pair pair) {
  return std::bit_cast<float>(pair & 0xffff0000);
}

// A product of packed random values, with everything around c untouched.
struct Product {
  int64_t rows, cols, depth, pairs = pairs_of(depth), stride = cols + 3;
  bool along;  // a's pairs follow each other
  std::vector<Pair> a, b;
  std::vector<float> c;

  Product(int64_t rows, int64_t cols, int64_t depth, bool along)
      : rows(rows),
        cols(cols),
        depth(depth),
        along(along),
        a(size_t(rows * pairs)),
        b(size_t(pairs * cols)),
        c(size_t(rows * stride + 1), 0.75f) {
    const Rows x(rows, depth, false), x_turned(depth, rows, false), w(depth, cols, false);
    if (along) {
      pack_pairs_along(x.data(), rows, depth, x.stride, a.data(), pairs);
    } else {
      pack_pairs_across(x_turned.data(), depth, rows, x_turned.stride, a.data(), rows);
    }
    pack_pairs_across(w.data(), depth, cols, w.stride, b.data(), cols);
  }
  PairsOfRows left(int64_t row = 0, int64_t pair = 0) const {
    return along ? PairsOfRows{a.data() + row * pairs + pair, pairs, 1}
                 : PairsOfRows{a.data() + row + pair * rows, 1, rows};
  }
  // Element (r, c) as one chain, in float where exact, else in double.
  template <typename Number>
  Number chain(int64_t r, int64_t column, Number sum) const {
    for (int64_t k = 0; k < pairs; ++k) {
      const PairsOfRows at = left(r, k);
      const Pair right = b[size_t(k * cols + column)];
      sum = std::fma(Number(earlier(*at.data)), Number(earlier(right)), sum);
      sum = std::fma(Number(later(*at.data)), Number(later(right)), sum);
    }
    return sum;
  }
  void run(float alpha, PairStore store) {
    multiply_pairs(rows, cols, pairs, left(), b.data(), cols, c.data() + 1, stride, alpha, store);
  }
};

float stored(float before, float sum, float alpha, PairStore store) {
  return store == PairStore::kAccumulate ? before + alpha * sum : alpha * sum;
}

class Bf16ChainTest : public ::testing::TestWithParam<PairStore> {};

TEST_P(Bf16ChainTest, EveryElementIsOneChainOverItsPairs) {
  struct Case {
    int64_t rows, cols, depth;
  };
  std::vector<Case> cases;
  for (int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 17}) {
    for (int64_t cols : {1, 7, 8, 9, 16, 17, 24, 25, 33, 48, 49, 64, 65}) cases.push_back({rows, cols, 13});
  }
  for (int64_t depth : {1, 2, 31, 32, 511, 512, 513, 514, 1100}) cases.push_back({9, 50, depth});
  const PairStore store = GetParam();
  for (const auto& [rows, cols, depth] : cases) {
    for (bool along : {true, false}) {
      for (float alpha : {1.0f, 0.3f}) {
        SCOPED_TRACE(fmt::format("{} x {} over {}, along {}, alpha {}", rows, cols, depth, along, alpha));
        Product product(rows, cols, depth, along);
        const std::vector<float> before = product.c;
        product.run(alpha, store);
        for (int64_t i = 0; i < int64_t(product.c.size()); ++i) {
          const int64_t r = (i - 1) / product.stride, c = (i - 1) % product.stride;
          const float found = product.c[size_t(i)], start = before[size_t(i)];
          if (i == 0 || c >= cols) {
            ASSERT_EQ(found, start) << "written around c";
          } else if (has_bf16_products()) {  // its own order within a pair
            const double sum = product.chain<double>(r, c, store == PairStore::kGoOn ? start : 0);
            ASSERT_NEAR(found, stored(start, float(sum), alpha, store), 1e-4 * double(depth));
          } else {
            const float sum = product.chain<float>(r, c, store == PairStore::kGoOn ? start : 0);
            ASSERT_EQ(found, stored(start, sum, alpha, store)) << r << " " << c;
          }
        }
      }
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<PairStore>& info) {
  constexpr const char* kNames[] = {"overwrite", "accumulate", "go_on"};
  return kNames[int(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Stores, Bf16ChainTest,
                         ::testing::Values(PairStore::kOverwrite, PairStore::kAccumulate, PairStore::kGoOn),
                         name_of);

TEST(Bf16ProductTest, ADepthMayBeCut) {
  for (bool along : {true, false}) {
    for (int64_t cut : {kCutPairs, 15 * kCutPairs, 16 * kCutPairs, 17 * kCutPairs, 20 * kCutPairs}) {
      Product whole(11, 37, 700, along), parts = whole;
      whole.run(1, PairStore::kOverwrite);
      multiply_pairs(11, 37, cut, parts.left(), parts.b.data(), 37, parts.c.data() + 1, parts.stride, 1,
                     PairStore::kOverwrite);
      multiply_pairs(11, 37, parts.pairs - cut, parts.left(0, cut), parts.b.data() + cut * 37, 37,
                     parts.c.data() + 1, parts.stride, 1, PairStore::kGoOn);
      EXPECT_EQ(whole.c, parts.c) << "cut at pair " << cut;
    }
  }
}

template <typename Value>
void expect_thin_is_the_packed_product(const std::vector<Value>& values, int64_t count, const Rows& wide,
                                       int64_t cut) {
  const int64_t rows = wide.rows, cols = wide.cols, pairs = pairs_of(rows), width = native::thin_width(count);
  const Rows thin(rows, count, false);
  std::vector<Pair> left(size_t(pairs * width)), right(size_t(pairs * cols));
  pack_pairs_across(thin.data(), rows, count, thin.stride, left.data(), width);
  pack_pairs_across(values.data() + 1, rows, cols, wide.stride, right.data(), cols);
  std::vector<float> expected(size_t(count * cols), NAN), sums(size_t(width * cols + 1), NAN);
  native::multiply_pairs(count, cols, pairs, {left.data(), 1, width}, right.data(), cols, expected.data(),
                         cols, 1, PairStore::kOverwrite, {});
  native::multiply_thin(left.data(), count, values.data() + 1, cut, cols, wide.stride, sums.data(), false);
  if (cut < rows) {
    native::multiply_thin(left.data() + cut / 2 * width, count, values.data() + 1 + cut * wide.stride,
                          rows - cut, cols, wide.stride, sums.data(), true);
  }
  EXPECT_TRUE(std::isnan(sums.back()));
  sums.resize(expected.size());
  EXPECT_EQ(sums, expected) << fmt::format("{} x {} over {}, cut at {}", count, cols, rows, cut);
}

TEST(Bf16ProductTest, ThinProductsAreThoseOfPackedRows) {
  if (!has_bf16_products()) GTEST_SKIP() << "no instruction for it";
  for (int64_t rows : {0, 1, 2, 3, 63, 64, 65, 130, 301}) {
    for (int64_t cols : {1, 7, 16, 17, 33, 64, 70}) {
      const Rows wide(rows, cols, false);
      std::vector<uint16_t> halves(wide.values.size());
      std::transform(wide.values.begin(), wide.values.end(), halves.begin(), to_bf16);
      for (int64_t count = 1; count <= native::kMostThin; ++count) {
        for (int64_t cut : {rows, rows / 4 * 2}) {
          expect_thin_is_the_packed_product(wide.values, count, wide, cut);
          expect_thin_is_the_packed_product(halves, count, wide, cut);
        }
      }
    }
  }
}

TEST(Bf16ProductTest, InfinitiesAndNanReachTheirRowAndColumnAlone) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (float special : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    Product clean(9, 50, 40, true), left = clean, right = clean;
    left.a[size_t(3 * left.pairs + 7)] = pair_of(special, 1);
    right.b[size_t(7 * 50 + 20)] = pair_of(1, special);
    for (Product* each : {&clean, &left, &right}) each->run(1, PairStore::kOverwrite);
    for (int64_t r = 0; r < 9; ++r) {
      for (int64_t c = 0; c < 50; ++c) {
        const size_t i = size_t(1 + r * clean.stride + c);
        EXPECT_EQ(std::isfinite(left.c[i]), r != 3);
        EXPECT_EQ(std::isfinite(right.c[i]), c != 20);
        if (r != 3) {
          EXPECT_EQ(left.c[i], clean.c[i]);
        }
        if (c != 20) {
          EXPECT_EQ(right.c[i], clean.c[i]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace coppice
