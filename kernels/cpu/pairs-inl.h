// Pairs of bf16_gemm.h made in registers, for operators that would else write float32 for it to be packed.
// Compiled once for each instruction set; where the processor has an instruction that rounds, the caller says
// so.

#if defined(COPPICE_KERNELS_CPU_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef COPPICE_KERNELS_CPU_PAIRS_INL_H_
#undef COPPICE_KERNELS_CPU_PAIRS_INL_H_
#else
#define COPPICE_KERNELS_CPU_PAIRS_INL_H_
#endif

#include "kernels/cpu/avx512-inl.h"
#include "kernels/cpu/bf16_gemm.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {

using WordVec = hn::Vec<Words>;

// Denormals become zero of their sign, as VCVTNE2PS2BF16 has it; all else is round_to_bfloat16's.
HWY_INLINE WordVec rounded(Vec value) {
  const auto denormal = hn::Lt(hn::Abs(value), set(std::numeric_limits<float>::min()));
  const Vec zero = hn::And(value, set(-0.0f));
  return hn::BitCast(Words(), round_to_bfloat16(hn::IfThenElse(denormal, zero, value)));
}

#if HWY_TARGET == HWY_AVX3
// Whether no value is NaN or denormal, so that rounding is an addition. AVX-512 has an instruction that
// tells.
HWY_INLINE bool rounds_plainly(Vec first, Vec second) {
  constexpr int kQuietNan = 0x01, kDenormal = 0x20, kSignallingNan = 0x80;
  return (_mm512_fpclass_ps_mask(first.raw, kQuietNan | kDenormal | kSignallingNan) |
          _mm512_fpclass_ps_mask(second.raw, kQuietNan | kDenormal | kSignallingNan)) == 0;
}
#else
HWY_INLINE bool rounds_plainly(Vec, Vec) {
  return false;
}
#endif

// To the upper half; the lower half is left over from the addition.
HWY_INLINE WordVec rounded_plainly(Vec value) {
  const auto bits = hn::BitCast(Words(), value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(Words(), 1));
  return hn::Add(hn::Add(bits, hn::Set(Words(), 0x7fff)), odd);
}

HWY_INLINE WordVec pair_up(Vec first, Vec second) {
  if (HWY_LIKELY(rounds_plainly(first, second))) {
    return hn::Or(hn::ShiftRight<16>(rounded_plainly(first)),
                  hn::And(rounded_plainly(second), hn::Set(Words(), 0xffff0000u)));
  }
  return hn::Or(hn::ShiftRight<16>(rounded(first)), rounded(second));
}

#if HWY_TARGET == HWY_AVX3
// In assembler, since this is compiled for processors without the instruction too.
HWY_INLINE __m512i rounded_in_order(Vec low, Vec high) {
  __m512i halves;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(halves) : "v"(high.raw), "v"(low.raw));
  return halves;
}
#endif

// Pairs of columns, of 2 kLanes of a row. native: has_bf16_products().
HWY_INLINE WordVec pairs_along(Vec low, Vec high, [[maybe_unused]] bool native) {
#if HWY_TARGET == HWY_AVX3
  if (native) return WordVec{rounded_in_order(low, high)};
#endif
  return pair_up(hn::ConcatEven(Floats(), high, low), hn::ConcatOdd(Floats(), high, low));
}

// Pairs of two rows.
HWY_INLINE WordVec pairs_across(Vec first, Vec second, [[maybe_unused]] bool native) {
#if HWY_TARGET == HWY_AVX3
  if (native) return WordVec{native::interleaved(rounded_in_order(first, second))};
#endif
  return pair_up(first, second);
}

HWY_INLINE void store_pairs(WordVec pairs, Pair* to, Whole) {
  hn::StoreU(pairs, Words(), to);
}
HWY_INLINE void store_pairs(WordVec pairs, Pair* to, Part part) {
  hn::BlendedStore(pairs, hn::FirstN(Words(), size_t(part.count)), Words(), to);
}

}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#endif
