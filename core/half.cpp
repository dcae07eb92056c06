// SPDX-License-Identifier: Apache-2.0
#include "core/half.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#ifdef __F16C__
#include <immintrin.h>
#endif

namespace kvscope {

#ifdef __F16C__
float FloatFromHalf(Half value) {
  return _cvtsh_ss(value.bits);
}
Half HalfFromFloat(float value) {
  return {static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))};
}
#else
float FloatFromHalf(Half value) {
  const int sign = value.bits >> 15, exponent = (value.bits >> 10) & 31, mantissa = value.bits & 1023;
  float magnitude;
  if (exponent == 31) {
    magnitude = mantissa ? NAN : INFINITY;
  } else {
    magnitude = std::ldexp(static_cast<float>(exponent ? mantissa + 1024 : mantissa), (exponent ? exponent : 1) - 25);
  }
  return sign ? -magnitude : magnitude;
}

Half HalfFromFloat(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return {static_cast<uint16_t>(sign | 0x7e00)};
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude == 0) return {sign};  // has no exponent
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  const int ulp = std::max(exponent - 11, -24);  // the unit of the last place is 2^ulp
  const float units = std::nearbyint(std::ldexp(magnitude, -ulp));
  // units in [0, 2048]: the carry into the exponent falls out of the addition.
  const int biased = ulp + 24;
  return {static_cast<uint16_t>(sign | (biased * 1024 + static_cast<int>(units)))};
}
#endif

void FloatsFromHalves(std::span<const Half> source, std::span<float> target) {
  KVSCOPE_CHECK_EQ(source.size(), target.size());
  size_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= source.size(); i += 16) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&source[i]));
    _mm512_storeu_ps(&target[i], _mm512_cvtph_ps(halves));
  }
#endif
#if defined(__F16C__) && defined(__AVX__)
  for (; i + 8 <= source.size(); i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(&source[i]));
    _mm256_storeu_ps(&target[i], _mm256_cvtph_ps(halves));
  }
#endif
  for (; i < source.size(); ++i) target[i] = FloatFromHalf(source[i]);
}

void HalvesFromFloats(std::span<const float> source, std::span<Half> target) {
  KVSCOPE_CHECK_EQ(source.size(), target.size());
  size_t i = 0;
#if defined(__F16C__) && defined(__AVX__)
  for (; i + 8 <= source.size(); i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(&source[i]), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(&target[i]), halves);
  }
#endif
  for (; i < source.size(); ++i) target[i] = HalfFromFloat(source[i]);
}

}  // namespace kvscope
