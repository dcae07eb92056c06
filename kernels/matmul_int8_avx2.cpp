// SPDX-License-Identifier: Apache-2.0
// AVX2 multiplies unsigned by signed bytes and adds pairs in 16 bits, saturating.
//   4 bits  a pair is at most 2 * 15 * 127 = 3810, so that eight quads fit 16 bits before they are widened.
//   8 bits  codes less 128 are signed; |code| times x with the code's sign is at most 2 * 128 * 127 = 32512.
#include "kernels/matmul_int8.h"

#ifdef __AVX2__
#include <immintrin.h>

#include "kernels/matmul_int8_panel.h"

namespace kvscope::int8 {
namespace {

struct Avx2 {
  static constexpr int kRows = 4;
  static constexpr int kByteBias = 128;
  struct Floats {
    __m256 a, b;
  };
  struct Ints {
    __m256i a, b;
  };
  struct Nibbles {
    __m256i a, b;
  };
  struct Bytes {
    __m256i a, b;  // code - 128
    __m256i magnitude_a, magnitude_b;
  };
  struct Sums4 {
    __m256i a, b;  // 16 bits, two to a quad
  };
  struct Sums8 {
    __m256i a, b;  // 32 bits
  };

  static Floats Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Floats Broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Ints Broadcast(int x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static Floats LoadFloats(const float* at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
  static Floats LoadHalves(const std::byte* at) {
    const auto* const halves = reinterpret_cast<const __m128i*>(at);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
  }
  static void Store(float* at, Floats x) { _mm256_storeu_ps(at, x.a), _mm256_storeu_ps(at + 8, x.b); }
  static Floats Mul(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static Floats Fma(Floats x, Floats y, Floats z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static Ints Mul(Ints x, Ints y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
  static Ints Add(Ints x, Ints y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static Floats ToFloats(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

  static __m256i Load(const std::byte* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  static __m256i BroadcastQuad(const int8_t* x) {
    int quad;
    __builtin_memcpy(&quad, x, sizeof quad);
    return _mm256_set1_epi32(quad);
  }
  static Nibbles LoadNibbles(const std::byte* at, bool is_high) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i a = Load(at), b = Load(at + 32);
    if (is_high) a = _mm256_srli_epi16(a, 4), b = _mm256_srli_epi16(b, 4);
    return {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
  }
  static Bytes LoadBytes(const std::byte* at) {
    const __m256i bias = _mm256_set1_epi8(-128);
    const __m256i a = _mm256_xor_si256(Load(at), bias), b = _mm256_xor_si256(Load(at + 32), bias);
    return {a, b, _mm256_abs_epi8(a), _mm256_abs_epi8(b)};
  }
  static void AddTo(Sums4& sums, const Nibbles& codes, const int8_t* x) {
    const __m256i quad = BroadcastQuad(x);
    sums.a = _mm256_add_epi16(sums.a, _mm256_maddubs_epi16(codes.a, quad));
    sums.b = _mm256_add_epi16(sums.b, _mm256_maddubs_epi16(codes.b, quad));
  }
  static __m256i Widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
  static void AddTo(Sums8& sums, const Bytes& codes, const int8_t* x) {
    const __m256i quad = BroadcastQuad(x);
    const __m256i a = _mm256_maddubs_epi16(codes.magnitude_a, _mm256_sign_epi8(quad, codes.a));
    const __m256i b = _mm256_maddubs_epi16(codes.magnitude_b, _mm256_sign_epi8(quad, codes.b));
    sums.a = _mm256_add_epi32(sums.a, Widen(a));
    sums.b = _mm256_add_epi32(sums.b, Widen(b));
  }
  static Ints Total(const Sums4& sums) { return {Widen(sums.a), Widen(sums.b)}; }
  static Ints Total(const Sums8& sums) { return {sums.a, sums.b}; }
};

}  // namespace

void MultiplyAvx2(const PanelProblem& problem) {
  Multiply<Avx2>(problem);
}

}  // namespace kvscope::int8
#endif
