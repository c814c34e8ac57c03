#include "kernels/cpu/bf16_gemm_amx.h"

#include "kernels/cpu/tile_gemm-inl.h"

namespace coppice::amx {
namespace {

using native::TileRows;

// The instructions name their registers, so each has a number when the code is compiled. In assembler, since
// the intrinsics of the compilers want that number as a literal.
struct Registers {
  // As LDTILECFG reads it: palette 1, all eight registers of 16 rows of 64 bytes.
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };

  static void configure() {
    thread_local bool configured = false;
    if (configured) return;
    const Configuration configuration;
    asm volatile("ldtilecfg %0" ::"m"(configuration));
    configured = true;
  }
  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"n"(kTile));
  }
  template <int kTile>
  static void load(TileRows rows) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"n"(kTile), "r"(rows.data), "r"(rows.stride_bytes)
                 : "memory");
  }
  template <int kTile>
  static void store(void* to, int64_t stride_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "n"(kTile) : "memory");
  }
  template <int kSum, int kLeft, int kRight>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"n"(kSum), "n"(kLeft), "n"(kRight));
  }
};

}  // namespace

void multiply_pairs(int64_t rows, int64_t cols, int64_t pairs, PairsOfRows a, const Pair* b, int64_t b_stride,
                    float* c, int64_t c_stride, float alpha, PairStore store, const Ahead& ahead) {
  native::multiply_pairs_in_tiles<Registers>(rows, cols, pairs, a, b, b_stride, c, c_stride, alpha, store,
                                             ahead);
}

}  // namespace coppice::amx
