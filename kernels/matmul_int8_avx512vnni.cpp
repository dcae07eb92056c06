// SPDX-License-Identifier: Apache-2.0
// AVX-512 VNNI multiplies unsigned by signed bytes and adds quads in 32 bits, exactly.
#include "kernels/matmul_int8.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include <immintrin.h>

#include "kernels/matmul_int8_panel.h"

namespace kvscope::int8 {
namespace {

struct Avx512Vnni {
  static constexpr int kRows = 8;
  static constexpr int kByteBias = 0;
  struct Floats {
    __m512 v;
  };
  struct Ints {
    __m512i v;
  };
  struct Codes {
    __m512i v;
  };
  using Sums4 = Ints;
  using Sums8 = Ints;

  static Floats Zero() { return {_mm512_setzero_ps()}; }
  static Floats Broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static Ints Broadcast(int x) { return {_mm512_set1_epi32(x)}; }
  static Floats LoadFloats(const float* at) { return {_mm512_loadu_ps(at)}; }
  static Floats LoadHalves(const std::byte* at) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)))};
  }
  static void Store(float* at, Floats x) { _mm512_storeu_ps(at, x.v); }
  static Floats Mul(Floats x, Floats y) { return {_mm512_mul_ps(x.v, y.v)}; }
  static Floats Fma(Floats x, Floats y, Floats z) { return {_mm512_fmadd_ps(x.v, y.v, z.v)}; }
  static Ints Mul(Ints x, Ints y) { return {_mm512_mullo_epi32(x.v, y.v)}; }
  static Ints Add(Ints x, Ints y) { return {_mm512_add_epi32(x.v, y.v)}; }
  static Floats ToFloats(Ints x) { return {_mm512_cvtepi32_ps(x.v)}; }

  static Codes LoadBytes(const std::byte* at) { return {_mm512_loadu_si512(at)}; }
  static Codes LoadNibbles(const std::byte* at, bool is_high) {
    __m512i codes = _mm512_loadu_si512(at);
    if (is_high) codes = _mm512_srli_epi16(codes, 4);
    return {_mm512_and_si512(codes, _mm512_set1_epi8(15))};
  }
  static void AddTo(Ints& sums, const Codes& codes, const int8_t* x) {
    int quad;
    __builtin_memcpy(&quad, x, sizeof quad);
    sums.v = _mm512_dpbusd_epi32(sums.v, codes.v, _mm512_set1_epi32(quad));
  }
  static Ints Total(const Ints& sums) { return sums; }
};

}  // namespace

void MultiplyAvx512Vnni(const PanelProblem& problem) {
  Multiply<Avx512Vnni>(problem);
}

}  // namespace kvscope::int8
#endif
