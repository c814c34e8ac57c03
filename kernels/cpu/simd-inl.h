// Vectors of float32 for the kernels of this folder: loads and stores of whole and partial vectors, a row
// walked by its columns, sums and maxima of a row in a fixed order, and the functions that Highway lacks or
// whose edges (infinities, NaN) matter here. Compiled once for each instruction set, by hwy/foreach_target.h:
// hence the guard that lets it in again.
//
// What keeps bits equal: an element's value never depends on the lane or the part of a vector it sits in, and
// what is summed over a row is summed by column number alone.

#if defined(COPPICE_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef COPPICE_KERNELS_CPU_SIMD_INL_H_
#undef COPPICE_KERNELS_CPU_SIMD_INL_H_
#else
#define COPPICE_KERNELS_CPU_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cpu/convert.h"

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Ints = hn::ScalableTag<int32_t>;
using Words = hn::ScalableTag<uint32_t>;
using Vec = hn::Vec<Floats>;
constexpr int64_t kLanes = int64_t(hn::MaxLanes(Floats()));

HWY_INLINE Vec set(float value) {
  return hn::Set(Floats(), value);
}

// All lanes, or the first `count` of them. Lanes beyond are read as 0 and never touched in memory (AVX2 and
// AVX-512 have masked loads and stores that do not fault there; the folder is compiled for nothing less).
struct Whole {};
struct Part {
  int64_t count;
};

HWY_INLINE Vec load(const float* from, Whole) {
  return hn::LoadU(Floats(), from);
}
HWY_INLINE void store(Vec value, float* to, Whole) {
  hn::StoreU(value, Floats(), to);
}

HWY_INLINE Vec load(const float* from, Part part) {
  return hn::MaskedLoad(hn::FirstN(Floats(), size_t(part.count)), Floats(), from);
}
HWY_INLINE void store(Vec value, float* to, Part part) {
  hn::BlendedStore(value, hn::FirstN(Floats(), size_t(part.count)), Floats(), to);
}

// Rows of bfloat16, widened. A part goes one by one: masks of halves are not for every target.
HWY_INLINE Vec load(const uint16_t* from, Whole) {
  const hn::Rebind<uint16_t, Words> halves;
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(hn::PromoteTo(Words(), hn::LoadU(halves, from))));
}
HWY_INLINE Vec load(const uint16_t* from, Part part) {
  HWY_ALIGN uint16_t copy[kLanes] = {};
  for (int64_t i = 0; i < part.count; ++i) copy[i] = from[i];
  return load(copy, Whole());
}

// call(float()) or call(uint16_t()): what the elements of a matrix are.
template <typename Call>
HWY_INLINE void with_elements(const Matrix& of, const Call& call) {
  of.dtype == DType::kBF16 ? call(uint16_t()) : call(float());
}

// body(column, Whole or Part) over the columns of a row.
template <typename Body>
HWY_INLINE void for_columns(int64_t cols, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) body(c, Whole());
  if (c < cols) body(c, Part{cols - c});
}

HWY_INLINE float sum_of(Vec value) {
  return hn::GetLane(hn::SumOfLanes(Floats(), value));
}
HWY_INLINE float max_of(Vec value) {
  return hn::GetLane(hn::MaxOfLanes(Floats(), value));
}

// op over the lanes of each of kLanes vectors: of vector i in lane i. op is associative, but for rounding.
template <typename Op>
HWY_INLINE Vec lanes_of_each(const Vec (&x)[kLanes], const Op& op) {
  const Floats f;
  const hn::Repartition<double, Floats> two;
  Vec fours[kLanes / 4];  // of four vectors, in each block of four lanes
  for (int i = 0; i < kLanes / 4; ++i) {
    const Vec* const at = x + 4 * i;
    const auto low =
        hn::BitCast(two, op(hn::InterleaveLower(f, at[0], at[1]), hn::InterleaveUpper(f, at[0], at[1])));
    const auto high =
        hn::BitCast(two, op(hn::InterleaveLower(f, at[2], at[3]), hn::InterleaveUpper(f, at[2], at[3])));
    fours[i] = op(hn::BitCast(f, hn::InterleaveLower(two, low, high)),
                  hn::BitCast(f, hn::InterleaveUpper(two, low, high)));
  }
  const auto halves = [&](Vec low, Vec high) HWY_ATTR {
    return op(hn::ConcatLowerLower(f, high, low), hn::ConcatUpperUpper(f, high, low));
  };
  if constexpr (kLanes == 8) {
    return halves(fours[0], fours[1]);
  } else {
    static_assert(kLanes == 16 || kLanes == 8);
    const Vec even = halves(fours[0], fours[2]), odd = halves(fours[1], fours[3]);
    return op(hn::OddEvenBlocks(hn::SwapAdjacentBlocks(odd), even),
              hn::OddEvenBlocks(odd, hn::SwapAdjacentBlocks(even)));
  }
}
HWY_INLINE Vec sum_of_each(const Vec (&x)[kLanes]) {
  return lanes_of_each(x, [](Vec a, Vec b) HWY_ATTR { return hn::Add(a, b); });
}
HWY_INLINE Vec max_of_each(const Vec (&x)[kLanes]) {
  return lanes_of_each(x, [](Vec a, Vec b) HWY_ATTR { return hn::Max(a, b); });
}

// Columns of a row on their way there: floats are put where they belong, what is to be bfloat16 into a piece
// that is rounded when it is whole. Rows of bfloat16 are written as products take them: without denormals.
constexpr int64_t kPiece = 512;
template <typename Element>
struct Piece {
  HWY_ALIGN float values[kPiece];
  HWY_INLINE float* of(uint16_t*) { return values; }
  HWY_INLINE void done(int64_t count, uint16_t* to) { round_operands(values, count, to); }
};
template <>
struct Piece<float> {
  HWY_INLINE float* of(float* row) { return row; }
  HWY_INLINE void done(int64_t, float*) {}
};

// body(first, count) over the pieces of a row.
template <typename Body>
HWY_INLINE void for_pieces(int64_t cols, const Body& body) {
  for (int64_t begin = 0; begin < cols; begin += kPiece) body(begin, std::min(kPiece, cols - begin));
}

// Sum over the columns of term(column, part), in four chains; a partial vector's terms must be 0 beyond its
// part.
template <typename Term>
HWY_INLINE float sum_columns(int64_t cols, const Term& term) {
  Vec s0 = set(0), s1 = set(0), s2 = set(0), s3 = set(0);
  int64_t c = 0;
  for (; c + 4 * kLanes <= cols; c += 4 * kLanes) {
    s0 = hn::Add(s0, term(c, Whole()));
    s1 = hn::Add(s1, term(c + kLanes, Whole()));
    s2 = hn::Add(s2, term(c + 2 * kLanes, Whole()));
    s3 = hn::Add(s3, term(c + 3 * kLanes, Whole()));
  }
  for (; c + kLanes <= cols; c += kLanes) s0 = hn::Add(s0, term(c, Whole()));
  if (c < cols) s1 = hn::Add(s1, term(c, Part{cols - c}));
  return sum_of(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

// Round to nearest bfloat16, ties to even, kept as float32; NaN stays NaN. Word for word round_to_bf16
// (dtype.h).
HWY_INLINE Vec round_to_bfloat16(Vec value) {
  const Words words;
  const auto bits = hn::BitCast(words, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
  const auto up = hn::Add(hn::Add(bits, hn::Set(words, 0x7fff)), odd);
  const auto quiet = hn::Or(bits, hn::Set(words, 0x400000));
  const auto is_nan = hn::RebindMask(words, hn::Not(hn::Eq(value, value)));  // Ne is false of a NaN
  return hn::BitCast(Floats(), hn::And(hn::IfThenElse(is_nan, quiet, up), hn::Set(words, 0xffff0000u)));
}

// exp(x - n log(2)), |x - n log(2)| <= log(2) / 2.
HWY_INLINE Vec exp_of_rest(Vec x, Vec n) {
  Vec r = hn::NegMulAdd(n, set(0.693145751953125f), x);
  r = hn::NegMulAdd(n, set(1.42860682030941723e-6f), r);
  Vec p = hn::MulAdd(r, set(0.001395172f), set(0.008369599f));
  p = hn::MulAdd(r, p, set(0.041666187f));
  p = hn::MulAdd(r, p, set(0.16666512f));
  p = hn::MulAdd(r, p, set(0.5f));
  return hn::Add(set(1.0f), hn::MulAdd(hn::Mul(r, r), p, r));
}

// exp(x) = 2^n exp(r), |r| <= log(2) / 2. The polynomial's error is 4e-9 of the value, the whole about 1 ulp;
// overflow gives infinity, underflow goes through the denormals to 0, NaN stays.
HWY_INLINE Vec exp(Vec x) {
  const Floats f;
  const Ints ints;
  const Vec bounded = hn::Max(set(-104.0f), hn::Min(set(89.0f), x));  // in this order a NaN comes through
  const Vec n = hn::Round(hn::Mul(bounded, set(1.44269504088896341f)));
  const Vec p = exp_of_rest(bounded, n);
  // 2^n in two factors: n reaches from -150 to 128.
  const auto whole = hn::ConvertTo(ints, n);
  const auto half = hn::ShiftRight<1>(whole), rest = hn::Sub(whole, half), bias = hn::Set(ints, 127);
  const Vec scale1 = hn::BitCast(f, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const Vec scale2 = hn::BitCast(f, hn::ShiftLeft<23>(hn::Add(rest, bias)));
  return hn::Mul(hn::Mul(p, scale1), scale2);
}

// exp(x) of a softmax: x <= 88. What would be a denormal (x < -87) is 0, which saves the second factor.
HWY_INLINE Vec exp_of_difference(Vec x) {
  const Words words;
  const Vec shift = set(12582912.0f);  // 1.5 * 2^23: the sum's last bits are the nearest whole number
  const Vec bounded = hn::Max(set(-87.0f), x);
  const Vec sum = hn::MulAdd(bounded, set(1.44269504088896341f), shift);
  const Vec p = exp_of_rest(bounded, hn::Sub(sum, shift));
  const auto scale = hn::Add(hn::ShiftLeft<23>(hn::BitCast(words, sum)), hn::Set(words, 127u << 23));
  return hn::IfThenZeroElse(hn::Lt(x, set(-87.0f)), hn::Mul(p, hn::BitCast(Floats(), scale)));
}

constexpr float kLog2E = 1.44269504088896341f;

// 2^x of a softmax in powers of two: x < 128. What would be a denormal (x < -125.5) is 0, NaN stays. The
// polynomial is twice 2^x for |x| <= 1/2, its error 3e-9 of the value.
HWY_INLINE Vec exp2_of_difference(Vec x) {
  // The last bits of a sum with this are the nearest whole number (1.5 * 2^23) and a float's bias less one:
  // the exponent of what the polynomial is to be multiplied with, which is 0 at the bound.
  const Vec shift = set(12582912.0f + 126.0f);
  const Vec bounded = hn::Max(set(-126.0f), x);  // in this order a NaN comes through
  const Vec sum = hn::Add(bounded, shift);
  const Vec r = hn::Sub(bounded, hn::Sub(sum, shift));
  Vec p = hn::MulAdd(r, set(0.00031189355649985373f), set(0.002681328682228923f));
  p = hn::MulAdd(r, p, set(0.019235385581851006f));
  p = hn::MulAdd(r, p, set(0.11100620776414871f));
  p = hn::MulAdd(r, p, set(0.4804530441761017f));
  p = hn::MulAdd(r, p, set(1.3862944841384888f));
  p = hn::MulAdd(r, p, set(2.0f));
  return hn::Mul(p, hn::BitCast(Floats(), hn::ShiftLeft<23>(hn::BitCast(Words(), sum))));
}

// log(x) for normal x > 0, about 1 ulp; infinity and NaN stay. The polynomial is that of Cephes' logf
// (Moshier, 1989).
HWY_INLINE Vec log(Vec x) {
  const Ints ints;
  // x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2)
  const auto bits = hn::BitCast(ints, x);
  const auto e = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(ints, 0x3f3504f3)));
  const Vec f = hn::Sub(hn::BitCast(Floats(), hn::Sub(bits, hn::ShiftLeft<23>(e))), set(1.0f));
  Vec p = hn::MulAdd(f, set(7.0376836292e-2f), set(-1.1514610310e-1f));
  p = hn::MulAdd(f, p, set(1.1676998740e-1f));
  p = hn::MulAdd(f, p, set(-1.2420140846e-1f));
  p = hn::MulAdd(f, p, set(1.4249322787e-1f));
  p = hn::MulAdd(f, p, set(-1.6668057665e-1f));
  p = hn::MulAdd(f, p, set(2.0000714765e-1f));
  p = hn::MulAdd(f, p, set(-2.4999993993e-1f));
  p = hn::MulAdd(f, p, set(3.3333331174e-1f));
  p = hn::MulAdd(f, p, set(-0.5f));
  const Vec power = hn::ConvertTo(Floats(), e), log1p = hn::MulAdd(hn::Mul(f, f), p, f);
  const Vec low = hn::MulAdd(power, set(-2.12194440e-4f), log1p);  // log(2) in two parts
  return hn::IfThenElse(hn::Lt(x, set(std::numeric_limits<float>::infinity())),
                        hn::MulAdd(power, set(0.693359375f), low), x);
}

HWY_INLINE Vec sigmoid(Vec x) {
  return hn::Div(set(1.0f), hn::Add(set(1.0f), exp(hn::Neg(x))));
}

// erf(x) = x P(x^2) for |x| <= 1, sign(x) (1 - exp(Q(|x|))) above, Q fitted to log(erfc); 1 from |x| = 4 on.
// Both fits are closer than 2e-9.
HWY_INLINE Vec erf(Vec x) {
  const Vec size = hn::Abs(x), square = hn::Mul(x, x);
  Vec p = hn::MulAdd(square, set(7.8538615e-05f), set(-0.00080101937f));
  p = hn::MulAdd(square, p, set(0.0051883277f));
  p = hn::MulAdd(square, p, set(-0.026853813f));
  p = hn::MulAdd(square, p, set(0.112835854f));
  p = hn::MulAdd(square, p, set(-0.37612626f));
  const Vec inner = hn::Mul(x, hn::MulAdd(square, p, set(1.1283791f)));
  const Vec t = hn::Sub(hn::Min(set(4.0f), size), set(2.5f));
  Vec q = hn::MulAdd(t, set(-2.1686757e-05f), set(6.181697e-05f));
  q = hn::MulAdd(t, q, set(-0.00043091437f));
  q = hn::MulAdd(t, q, set(0.0021665234f));
  q = hn::MulAdd(t, q, set(-0.010853499f));
  q = hn::MulAdd(t, q, set(-0.9438918f));
  q = hn::MulAdd(t, q, set(-5.3526807f));
  q = hn::MulAdd(t, q, set(-7.806815f));
  const Vec outer = hn::CopySignToAbs(hn::Sub(set(1.0f), exp(q)), x);
  return hn::IfThenElse(hn::Le(size, set(1.0f)), inner, outer);
}

}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#endif
