// SPDX-License-Identifier: Apache-2.0
// Sixteen floats at once: AVX-512, AVX2 + FMA, or plain C++ (slow but the same operations). Internal to kernels/*.cpp.
// Every multiply-add is explicit, so that the compiler's choices never change a result.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/half.h"
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace kvscope::simd {

inline constexpr int kLanes = 16;

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
inline constexpr int kMostSums = 24;  // Floats in registers, beside what is added to them
struct Floats {
  __m512 v;
};
inline Floats Zero() {
  return {_mm512_setzero_ps()};
}
inline Floats Broadcast(float x) {
  return {_mm512_set1_ps(x)};
}
inline Floats Load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
inline Floats Load(const Half* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void Store(float* p, Floats a) {
  _mm512_storeu_ps(p, a.v);
}
inline Floats Add(Floats a, Floats b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline Floats Sub(Floats a, Floats b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline Floats Mul(Floats a, Floats b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline Floats Div(Floats a, Floats b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline Floats Max(Floats a, Floats b) {
  return {_mm512_max_ps(a.v, b.v)};
}
inline Floats Min(Floats a, Floats b) {
  return {_mm512_min_ps(a.v, b.v)};
}
inline Floats Fma(Floats a, Floats b, Floats c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// less < bound ? yes : no; no where either is NaN.
inline Floats IfLess(Floats less, Floats bound, Floats yes, Floats no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(less.v, bound.v, _CMP_LT_OQ), no.v, yes.v)};
}
inline Floats Exp(Floats x) {
  const __mmask16 is_tiny = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-87.0f), _CMP_LT_OQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x.v, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x.v);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 p = _mm512_set1_ps(1.0f / 720);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return {_mm512_mask_mov_ps(_mm512_scalef_ps(p, n), is_tiny, _mm512_setzero_ps())};
}
// Lanes below `count` keep their value, the others become `fill`.
inline Floats KeepFirst(Floats a, int count, float fill) {
  const __mmask16 keep = count >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count < 0 ? 0 : count)) - 1);
  return {_mm512_mask_mov_ps(_mm512_set1_ps(fill), keep, a.v)};
}
// rows[i] lane j <-> rows[j] lane i.
inline void Transpose(Floats rows[16]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  // b[i + j], i a multiple of 4: lanes 4 * q + r hold rows i + r, column 4 * q + j.
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a[i]), _mm512_castps_pd(a[i + 2])));
    b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a[i]), _mm512_castps_pd(a[i + 2])));
    b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a[i + 1]), _mm512_castps_pd(a[i + 3])));
    b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a[i + 1]), _mm512_castps_pd(a[i + 3])));
  }
  for (int j = 0; j < 4; ++j) {
    const __m512 low01 = _mm512_shuffle_f32x4(b[j], b[j + 4], 0x44),
                 high01 = _mm512_shuffle_f32x4(b[j], b[j + 4], 0xee);
    const __m512 low23 = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0x44),
                 high23 = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0xee);
    rows[j].v = _mm512_shuffle_f32x4(low01, low23, 0x88);
    rows[j + 4].v = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    rows[j + 8].v = _mm512_shuffle_f32x4(high01, high23, 0x88);
    rows[j + 12].v = _mm512_shuffle_f32x4(high01, high23, 0xdd);
  }
}
// Bytes 0..255 to floats.
inline Floats FromUnsignedBytes(__m128i bytes) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
}
struct Words {
  __m512i v;
};
inline Words LoadWords(const std::byte* p) {
  return {_mm512_loadu_si512(p)};
}
// word >> kShift & kMask, as floats.
template <int kShift, int kMask>
inline Floats FromBits(Words words) {
  return {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(words.v, kShift), _mm512_set1_epi32(kMask)))};
}
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
inline constexpr int kMostSums = 6;
struct Floats {
  __m256 a, b;
};
inline Floats Zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline Floats Broadcast(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline Floats Load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline Floats Load(const Half* p) {
  const auto* q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
inline void Store(float* p, Floats x) {
  _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b);
}
inline Floats Add(Floats x, Floats y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline Floats Sub(Floats x, Floats y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline Floats Mul(Floats x, Floats y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline Floats Div(Floats x, Floats y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline Floats Max(Floats x, Floats y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline Floats Min(Floats x, Floats y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline Floats Fma(Floats x, Floats y, Floats z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Floats IfLess(Floats less, Floats bound, Floats yes, Floats no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(less.a, bound.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(less.b, bound.b, _CMP_LT_OQ))};
}
inline __m256 Exp8(__m256 x) {
  const __m256 is_tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ);
  x = _mm256_max_ps(_mm256_set1_ps(-87.0f), x);  // in this order a NaN stays one
  const __m256 n =
      _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860677e-6f), r);
  __m256 p = _mm256_set1_ps(1.0f / 720);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  const __m256i scale = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_andnot_ps(is_tiny, _mm256_mul_ps(p, _mm256_castsi256_ps(scale)));
}
inline Floats Exp(Floats x) {
  return {Exp8(x.a), Exp8(x.b)};
}
inline Floats KeepFirst(Floats x, int count, float fill) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), bound = _mm256_set1_epi32(count);
  const __m256 fills = _mm256_set1_ps(fill);
  const auto keep = [&](__m256 half, __m256i first) {
    return _mm256_blendv_ps(fills, half, _mm256_castsi256_ps(_mm256_cmpgt_epi32(bound, first)));
  };
  return {keep(x.a, lanes), keep(x.b, _mm256_add_epi32(lanes, _mm256_set1_epi32(8)))};
}
// rows[i] lane j <-> rows[j] lane i, of 8.
inline void Transpose8(__m256 rows[8]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  // b[i + j], i a multiple of 4: lanes 4 * q + r hold rows i + r, column 4 * q + j.
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    rows[j] = _mm256_permute2f128_ps(b[j], b[j + 4], 0x20);
    rows[j + 4] = _mm256_permute2f128_ps(b[j], b[j + 4], 0x31);
  }
}
// rows[i] lane j <-> rows[j] lane i.
inline void Transpose(Floats rows[16]) {
  __m256 quarter[8];
  for (int i = 0; i < 8; ++i) quarter[i] = rows[i].a;
  Transpose8(quarter);
  for (int i = 0; i < 8; ++i) rows[i].a = quarter[i];
  for (int i = 0; i < 8; ++i) quarter[i] = rows[i + 8].b;
  Transpose8(quarter);
  for (int i = 0; i < 8; ++i) rows[i + 8].b = quarter[i];
  __m256 other[8];
  for (int i = 0; i < 8; ++i) quarter[i] = rows[i].b, other[i] = rows[i + 8].a;
  Transpose8(quarter);
  Transpose8(other);
  for (int i = 0; i < 8; ++i) rows[i].b = other[i], rows[i + 8].a = quarter[i];
}
inline Floats FromUnsignedBytes(__m128i bytes) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
struct Words {
  __m256i a, b;
};
inline Words LoadWords(const std::byte* p) {
  const auto* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
template <int kShift, int kMask>
inline Floats FromBits(Words words) {
  const __m256i mask = _mm256_set1_epi32(kMask);
  return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(words.a, kShift), mask)),
          _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(words.b, kShift), mask))};
}
#else
#define KVSCOPE_SIMD_PLAIN 1
inline constexpr int kMostSums = 6;
struct Floats {
  float v[16];
};
template <typename Function>
inline Floats Each(Function function) {
  Floats out;
  for (int lane = 0; lane < 16; ++lane) out.v[lane] = function(lane);
  return out;
}
inline Floats Zero() {
  return Each([](int) { return 0.0f; });
}
inline Floats Broadcast(float x) {
  return Each([=](int) { return x; });
}
inline Floats Load(const float* p) {
  return Each([=](int i) { return p[i]; });
}
inline Floats Load(const Half* p) {
  return Each([=](int i) { return FloatFromHalf(p[i]); });
}
inline void Store(float* p, const Floats& a) {
  for (int lane = 0; lane < 16; ++lane) p[lane] = a.v[lane];
}
inline Floats Add(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats Sub(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Floats Mul(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Floats Div(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.v[i] / b.v[i]; });
}
inline Floats Max(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats Min(const Floats& a, const Floats& b) {
  return Each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats Fma(const Floats& a, const Floats& b, const Floats& c) {
  return Each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline Floats IfLess(const Floats& less, const Floats& bound, const Floats& yes, const Floats& no) {
  return Each([&](int i) { return less.v[i] < bound.v[i] ? yes.v[i] : no.v[i]; });
}
inline Floats Exp(const Floats& x) {
  return Each([&](int i) { return x.v[i] < -87.0f ? 0.0f : std::exp(x.v[i]); });
}
inline Floats KeepFirst(const Floats& x, int count, float fill) {
  return Each([&](int i) { return i < count ? x.v[i] : fill; });
}
struct Words {
  uint32_t v[16];
};
inline Words LoadWords(const std::byte* p) {
  Words words;
  std::memcpy(words.v, p, sizeof words.v);
  return words;
}
template <int kShift, int kMask>
inline Floats FromBits(const Words& words) {
  return Each([&](int i) { return static_cast<float>(words.v[i] >> kShift & kMask); });
}
#endif

#ifdef KVSCOPE_SIMD_PLAIN
// rows[i] lane j <-> rows[j] lane i.
inline void Transpose(Floats rows[16]) {
  float columns[kLanes][kLanes];
  for (int row = 0; row < kLanes; ++row) {
    float lanes[kLanes];
    Store(lanes, rows[row]);
    for (int lane = 0; lane < kLanes; ++lane) columns[lane][row] = lanes[lane];
  }
  for (int row = 0; row < kLanes; ++row) rows[row] = Load(columns[row]);
}
#endif

// The other way round: lanes from `begin` on keep their value.
inline Floats KeepFrom(Floats a, int begin, float fill) {
  static constexpr float kLane[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return IfLess(Load(kLane), Broadcast(static_cast<float>(begin)), Broadcast(fill), a);
}

// Relative error < 4e-7; a NaN stays one. Near 0 the fifth convergent of Lambert's continued fraction, elsewhere
// (1 - e) / (1 + e) with e = exp(-2 |x|).
inline Floats Tanh(Floats x) {
  const Floats magnitude = Max(x, Sub(Zero(), x)), square = Mul(x, x), near = Broadcast(0.5f);
  const Floats e = Exp(Mul(magnitude, Broadcast(-2.0f)));
  const Floats over = Mul(magnitude, Fma(Add(square, Broadcast(105.0f)), square, Broadcast(945.0f)));
  const Floats under = Fma(Fma(square, Broadcast(15.0f), Broadcast(420.0f)), square, Broadcast(945.0f));
  const Floats tanh = Div(IfLess(magnitude, near, over, Sub(Broadcast(1.0f), e)),
                          IfLess(magnitude, near, under, Add(Broadcast(1.0f), e)));
  return IfLess(x, Zero(), Sub(Zero(), tanh), tanh);
}

// Sum and maximum of the lanes in a fixed order.
inline float Sum(Floats x) {
  float lanes[kLanes];
  Store(lanes, x);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}
inline float LargestLane(Floats x) {
  float lanes[kLanes];
  Store(lanes, x);
  float largest = lanes[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
  return largest;
}

}  // namespace kvscope::simd
