// Vectors of 16 floats, for all that is compiled here; the compiler splits them where registers are narrower.
#pragma once

#include <cstdint>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

constexpr int LANES = 16;
#if defined(__AVX512F__)
constexpr int ACCUMULATORS = 24;  // of the 32 vector registers
#else
constexpr int ACCUMULATORS = 8;
#endif

typedef float Vec __attribute__((vector_size(LANES * sizeof(float)), aligned(64), may_alias));
typedef int32_t IntVec __attribute__((vector_size(LANES * sizeof(float)), aligned(64), may_alias));

inline Vec all(float x) { return x - Vec{}; }

inline IntVec all_int(int32_t x) { return x - IntVec{}; }

// Both keep what is not a number in `a`, so that a broken weight shows in the log-probabilities
inline Vec maximum(Vec a, Vec b) { return b > a ? b : a; }

inline Vec minimum(Vec a, Vec b) { return b < a ? b : a; }

// exp to about 1e-7, for |x| < 87 (clamped): x = n ln 2 + r, a polynomial for e^r (Taylor to r^7, |r| < 0.35), 2^n from bits
__attribute__((always_inline)) inline Vec exponential(Vec x) {
  x = minimum(maximum(x, all(-87.0f)), all(87.0f));
  const Vec shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec shifted = x * all(1.44269504f) + shift;
  const Vec n = shifted - shift;
  const Vec r = (x - n * all(0.693359375f)) + n * all(2.12194440e-4f);
  Vec p = all(1.0f / 5040.0f);
  p = p * r + all(1.0f / 720.0f);
  p = p * r + all(1.0f / 120.0f);
  p = p * r + all(1.0f / 24.0f);
  p = p * r + all(1.0f / 6.0f);
  p = p * r + all(0.5f);
  p = p * r + all(1.0f);
  p = p * r + all(1.0f);
  union { Vec f; IntVec i; } bits;
  bits.f = shifted;
  bits.i = (bits.i - 0x4B400000 + 127) << 23;
  return p * bits.f;
}

// Both by halves: one lane after the other, each would wait for the last
inline float sum(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
#endif
}

inline float largest(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) v[i] = v[i + half] > v[i] ? v[i + half] : v[i];
  return v[0];
#endif
}

#if defined(__AVX512BF16__)
// sum += a b, with two neighbouring bfloat16 factors in each lane
inline Vec pair_product(Vec sum, IntVec a, IntVec b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// The 16 lanes in bfloat16
inline __m256i halves(Vec x) { return (__m256i)_mm512_cvtneps_pbh((__m512)x); }

// Lane by lane, `even` and `odd` as a pair
inline IntVec pair(Vec even, Vec odd) {
  const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves(odd)), 16);
  return (IntVec)_mm512_or_si512(_mm512_cvtepu16_epi32(halves(even)), high);
}

// The 16 lanes as 8 pairs of neighbours
inline void store_pairs(int32_t* to, Vec x) { _mm256_storeu_si256((__m256i*)to, halves(x)); }
#endif
