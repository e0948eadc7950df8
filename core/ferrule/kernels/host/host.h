// bfloat16 in vectors of eight, for x86 with AVX2. All of this folder is compiled on the user's
// machine by library.py.

#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "needs AVX2, FMA and F16C"
#endif

typedef uint16_t bf16;

static inline float widen(bf16 x) {
  uint32_t bits = (uint32_t)x << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

static inline bf16 narrow(float f) {  // To the nearest, ties to even; NaN stays NaN.
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 64;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

static inline __m256 widen8(const bf16 *x) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline __m256 rounded8(__m256 x) {  // To bfloat16's nearest, kept as float; no NaN.
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0xffff0000)));
}

static inline void store8(bf16 *y, __m256 x) {
  __m256i bits = _mm256_srli_epi32(_mm256_castps_si256(rounded8(x)), 16);
  __m128i low = _mm256_castsi256_si128(bits), high = _mm256_extracti128_si256(bits, 1);
  _mm_storeu_si128((__m128i *)y, _mm_packus_epi32(low, high));
}

static inline float sum8(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

void ferrule_silu_mul(const bf16 *x, long rows, long width, bf16 *y);  // layers.c
