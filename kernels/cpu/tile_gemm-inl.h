#pragma once
// multiply_pairs() of bf16_gemm.h on tile registers: eight of 16 rows of 16 words each, and one instruction
// that adds to a tile of sums the product of a tile of the left side (16 rows, 16 pairs) and one of the right
// side (16 pairs, 16 columns). What the registers are is a parameter: those of a processor with AMX
// (bf16_gemm_amx.cc), or in a test memory that is worked on as Intel's manual has it, so that all but the
// instructions themselves is tested on every processor with AVX-512.
//
// All tiles are full. What is smaller (few rows, the last columns, the last pairs) is copied into a full one
// with zeros around it, which adds an exact zero to no more than what was there. The instruction sums the
// pairs of a tile by themselves, then adds: so a chain may be cut at multiples of kCutPairs, and every
// element's chain begins such a tile where its product begins.
//
// Of the eight registers a block of 32 x 48 has six for its sums: what passes the load ports for two rows of
// tiles is then five tiles of the right side and two of the left, for six products. See "TMUL" in Intel's
// optimization manual, chapter 20.
//
// Thread: any. Nothing is thrown.

#include <array>

#include "kernels/cpu/avx512-inl.h"
#include "kernels/cpu/bf16_gemm.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl")

namespace coppice::native {

constexpr int64_t kSide = kCutPairs;  // rows of a tile, and words of a row
constexpr int64_t kStripRows = 32;    // two rows of tiles
constexpr int kBlockTiles = 3;        // columns of tiles
constexpr int64_t kTurnedTiles = 8;   // of the depth, of a left side that is turned once for all its columns
constexpr int64_t kPiecesOfStrip = kStripRows / 8;  // Ahead's, which counts strips of eight rows

struct alignas(64) Tile {
  Pair words[kSide * kSide];
};

// What a register is loaded from: 16 rows of 64 bytes.
struct TileRows {
  const void* data;
  int64_t stride_bytes;
};
constexpr int64_t kTileStride = kSide * int64_t(sizeof(Pair));

// [rows, cols] of words: where they stand if they fill a tile, else copied to one.
inline TileRows full_tile(const void* data, int64_t rows, int64_t cols, int64_t stride, Tile& copy) {
  if (rows >= kSide && cols >= kSide) return {data, stride * int64_t(sizeof(Pair))};
  const Pair* const from = static_cast<const Pair*>(data);
  const __mmask16 mask = mask_of(cols);
  for (int64_t r = 0; r < kSide; ++r) {
    _mm512_store_si512(copy.words + r * kSide,
                       r < rows ? _mm512_maskz_loadu_epi32(mask, from + r * stride) : _mm512_setzero_si512());
  }
  return {copy.words, kTileStride};
}

// The same of words that stand turned: [cols, rows].
inline TileRows turned_tile(const Pair* from, int64_t rows, int64_t cols, int64_t stride, Tile& to) {
  const __mmask16 mask = mask_of(rows);
  __m512i words[kSide];
  for (int64_t c = 0; c < kSide; ++c)
    words[c] = c < cols ? _mm512_maskz_loadu_epi32(mask, from + c * stride) : _mm512_setzero_si512();
  transpose(words);
  for (int64_t r = 0; r < kSide; ++r) _mm512_store_si512(to.words + r * kSide, words[r]);
  return {to.words, kTileStride};
}

// The left side of a strip, tile by tile.
class LeftStrip {
 public:
  LeftStrip(PairsOfRows a, int64_t rows, int64_t pairs) : a_(a), rows_(rows), pairs_(pairs) {
    if (a.depth == 1) return;
    for (int64_t k = 0; k * kSide < pairs && k < kTurnedTiles; ++k)
      for (int64_t i = 0; i * kSide < rows; ++i) turn(i, k, turned_[size_t(2 * k + i)]);
  }

  TileRows tile(int64_t i, int64_t k, Tile& copy) const {
    if (a_.depth == 1) {
      return full_tile(a_.data + i * kSide * a_.row + k * kSide, rows_ - i * kSide, pairs_ - k * kSide,
                       a_.row, copy);
    }
    if (k < kTurnedTiles) return {turned_[size_t(2 * k + i)].words, kTileStride};
    return turn(i, k, copy);
  }

  // Whether all its tiles are there as they are, from first(i) on so many bytes from one step to the next.
  bool stands() const {
    return a_.depth == 1 ? rows_ % kSide == 0 && pairs_ % kSide == 0 : pairs_ <= kTurnedTiles * kSide;
  }
  TileRows first(int64_t i) const {
    if (a_.depth == 1) return {a_.data + i * kSide * a_.row, a_.row * int64_t(sizeof(Pair))};
    return {turned_[size_t(i)].words, kTileStride};
  }
  int64_t step_bytes() const { return a_.depth == 1 ? kTileStride : 2 * int64_t(sizeof(Tile)); }

 private:
  TileRows turn(int64_t i, int64_t k, Tile& to) const {
    return turned_tile(a_.data + i * kSide + k * kSide * a_.depth, rows_ - i * kSide, pairs_ - k * kSide,
                       a_.depth, to);
  }

  const PairsOfRows a_;
  const int64_t rows_, pairs_;
  std::array<Tile, 2 * kTurnedTiles> turned_;
};

// Where sums go: [rows, cols] of c, its last tiles perhaps not full.
struct BlockOfSums {
  float* c;
  int64_t rows, cols, stride;
  float alpha;
  PairStore store;

  float* at(int64_t i, int64_t v) const { return c + i * kSide * stride + v * kSide; }
};

// What is called for while a strip is computed, spread over the steps of its depth.
class StripAhead {
 public:
  StripAhead(const Ahead& ahead, int64_t strip, int64_t steps, const void* here) {
    for (int64_t piece = 0; piece < kPiecesOfStrip; ++piece)
      pieces_[size_t(piece)] = ahead.strip(strip * kPiecesOfStrip + piece, steps, here);
  }
  bool empty() const { return pieces_[0].advance == 0; }
  void step() {
    for (Ahead::Strip& piece : pieces_) {
      for (int64_t byte = 0; byte < piece.advance; byte += 64)
        _mm_prefetch(reinterpret_cast<const char*>(piece.next + byte), _MM_HINT_T1);
      piece.next += piece.advance;
    }
  }

 private:
  std::array<Ahead::Strip, size_t(kPiecesOfStrip)> pieces_;
};

// Registers of a block of kRows x kCols tiles: sums, then the left side's, then those of the right side: one
// for each column of tiles, or one for all where there are not so many.
template <int kRows, int kCols>
struct Registers {
  static constexpr int kLeft = kRows * kCols;
  static constexpr bool kKeepsRight = kLeft + 1 + kCols <= 8;
  static constexpr int sum(int i, int v) { return i * kCols + v; }
  static constexpr int right(int v) { return kLeft + 1 + (kKeepsRight ? v : 0); }
};

// f(std::integral_constant<int, i>) for i in [0, kCount): registers are named when the code is compiled.
template <int kCount, typename F>
inline __attribute__((always_inline)) void for_each_number(const F& f) {
  [&]<int... kNumbers>(std::integer_sequence<int, kNumbers...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, kNumbers>()), ...);
  }
  (std::make_integer_sequence<int, kCount>());
}

template <typename Tiles, int kRows, int kCols>
void load_sums(const BlockOfSums& block) {
  using R = Registers<kRows, kCols>;
  for_each_number<kRows * kCols>([&](auto number) {
    constexpr int i = number / kCols, v = number % kCols;
    if (block.store == PairStore::kGoOn) {
      Tile copy;
      Tiles::template load<R::sum(i, v)>(
          full_tile(block.at(i, v), block.rows - i * kSide, block.cols - v * kSide, block.stride, copy));
    } else {
      Tiles::template zero<R::sum(i, v)>();
    }
  });
}

template <typename Tiles, int kRows, int kCols>
void store_sums(const BlockOfSums& block) {
  using R = Registers<kRows, kCols>;
  for_each_number<kRows * kCols>([&](auto number) {
    constexpr int i = number / kCols, v = number % kCols;
    const int64_t rows = std::min(kSide, block.rows - i * kSide), cols = block.cols - v * kSide;
    float* to = block.at(i, v);
    if (block.store != PairStore::kAccumulate && block.alpha == 1 && rows == kSide && cols >= kSide) {
      Tiles::template store<R::sum(i, v)>(to, block.stride * int64_t(sizeof(float)));
      return;
    }
    Tile sums;
    Tiles::template store<R::sum(i, v)>(sums.words, kTileStride);
    const __mmask16 mask = mask_of(cols);
    const __m512 factor = _mm512_set1_ps(block.alpha);
    for (int64_t r = 0; r < rows; ++r, to += block.stride) {
      __m512 value =
          _mm512_mul_ps(factor, _mm512_load_ps(reinterpret_cast<const float*>(sums.words) + r * kSide));
      if (block.store == PairStore::kAccumulate)
        value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), value);
      _mm512_mask_storeu_ps(to, mask, value);
    }
  });
}

// One step of the depth: right(v) tells where the tiles of the right side are.
template <typename Tiles, int kRows, int kCols, typename Right>
inline __attribute__((always_inline)) void multiply_step(TileRows left, TileRows second_left,
                                                         const Right& right) {
  using R = Registers<kRows, kCols>;
  Tiles::template load<R::kLeft>(left);
  for_each_number<kCols>([&](auto v) __attribute__((always_inline)) {
    Tiles::template load<R::right(v)>(right(v));
    Tiles::template multiply<R::sum(0, v), R::kLeft, R::right(v)>();
  });
  if constexpr (kRows == 2) {
    Tiles::template load<R::kLeft>(second_left);
    for_each_number<kCols>([&](auto number) __attribute__((always_inline)) {
      constexpr int v = kCols - 1 - number;  // the last is still there
      if constexpr (!R::kKeepsRight && number > 0) Tiles::template load<R::right(v)>(right(v));
      Tiles::template multiply<R::sum(1, v), R::kLeft, R::right(v)>();
    });
  }
}

// Where all that a block reads stands in whole tiles.
template <typename Tiles, int kRows, int kCols>
void multiply_whole(const LeftStrip& left, int64_t steps, const Pair* b, int64_t b_stride) {
  const TileRows first = left.first(0), second = kRows == 2 ? left.first(1) : first;
  const auto* at = static_cast<const std::byte*>(first.data);
  const auto* second_at = static_cast<const std::byte*>(second.data);
  const int64_t bytes = left.step_bytes(), right_bytes = b_stride * int64_t(sizeof(Pair));
  for (; steps > 0; --steps, at += bytes, second_at += bytes, b += kSide * b_stride) {
    multiply_step<Tiles, kRows, kCols>(
        {at, first.stride_bytes},
        {second_at, second.stride_bytes}, [=](int v) __attribute__((always_inline)) {
          return TileRows{b + v * kSide, right_bytes};
        });
  }
}

constexpr int64_t kDeepSteps = 8;  // in fewer nothing that is called for arrives in time

template <typename Tiles, int kRows, int kCols>
void multiply_block(const LeftStrip& left, int64_t pairs, const Pair* b, int64_t b_stride,
                    const BlockOfSums& block, StripAhead ahead) {
  const int64_t steps = (pairs + kSide - 1) / kSide;
  if (steps >= kDeepSteps)
    for (int64_t r = 0; r < block.rows; ++r)
      for (int v = 0; v < kCols; ++v)
        _mm_prefetch(reinterpret_cast<const char*>(block.c + r * block.stride + v * kSide), _MM_HINT_T0);
  load_sums<Tiles, kRows, kCols>(block);
  if (ahead.empty() && left.stands() && pairs % kSide == 0 && block.cols >= kCols * kSide) {
    multiply_whole<Tiles, kRows, kCols>(left, steps, b, b_stride);
  } else {
    Tile left_copies[2], right_copies[kCols];
    for (int64_t k = 0; k < steps; ++k, b += kSide * b_stride) {
      ahead.step();
      TileRows right[kCols];
      for (int v = 0; v < kCols; ++v)
        right[v] =
            full_tile(b + v * kSide, pairs - k * kSide, block.cols - v * kSide, b_stride, right_copies[v]);
      multiply_step<Tiles, kRows, kCols>(left.tile(0, k, left_copies[0]),
                                         kRows == 2 ? left.tile(1, k, left_copies[1]) : TileRows{},
                                         [&](int v) { return right[v]; });
    }
  }
  store_sums<Tiles, kRows, kCols>(block);
}

template <typename Tiles, int kRows>
void multiply_block_of(int64_t tiles, const LeftStrip& left, int64_t pairs, const Pair* b, int64_t b_stride,
                       const BlockOfSums& block, const StripAhead& ahead) {
  switch (tiles) {
    case 1:
      return multiply_block<Tiles, kRows, 1>(left, pairs, b, b_stride, block, ahead);
    case 2:
      return multiply_block<Tiles, kRows, 2>(left, pairs, b, b_stride, block, ahead);
    default:
      return multiply_block<Tiles, kRows, kBlockTiles>(left, pairs, b, b_stride, block, ahead);
  }
}

template <typename Tiles>
void multiply_pairs_in_tiles(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b,
                             int64_t b_stride, float* c, int64_t c_stride, float alpha, PairStore store,
                             const Ahead& ahead) {
  Tiles::configure();
  const int64_t steps = (pairs + kSide - 1) / kSide;
  // With one step of depth, adding to what is in a register is adding to it afterwards.
  if (steps == 1 && alpha == 1 && store == PairStore::kAccumulate) store = PairStore::kGoOn;
  for (int64_t row = 0; row < rows; row += kStripRows) {
    const int64_t strip_rows = std::min(kStripRows, rows - row);
    const LeftStrip left({a.data + row * a.row, a.row, a.depth}, strip_rows, pairs);
    for (int64_t col = 0; col < cols;) {
      const int64_t left_tiles = (cols - col + kSide - 1) / kSide;
      const int64_t tiles =
          left_tiles == 4 ? 2 : std::min<int64_t>(left_tiles, kBlockTiles);  // 2 + 2, not 3 + 1
      float* const to = c + row * c_stride + col;
      const BlockOfSums block = {to, strip_rows, std::min(cols - col, tiles * kSide), c_stride, alpha, store};
      const StripAhead strip_ahead(col == 0 ? ahead : Ahead(), row / kStripRows, std::max<int64_t>(steps, 1),
                                   to);
      if (strip_rows > kSide) {
        multiply_block_of<Tiles, 2>(tiles, left, pairs, b + col, b_stride, block, strip_ahead);
      } else {
        multiply_block_of<Tiles, 1>(tiles, left, pairs, b + col, b_stride, block, strip_ahead);
      }
      col += tiles * kSide;
    }
  }
}

}  // namespace coppice::native

HWY_POP_ATTRIBUTES
