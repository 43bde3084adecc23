// Vectors of 16 floats, for all that is compiled here; the compiler splits them where registers are narrower.
#pragma once

#include <cstdint>

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

inline float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += v[i];
  return total;
}

inline float largest(Vec v) {
  float top = v[0];
  for (int i = 1; i < LANES; i++) top = v[i] > top ? v[i] : top;
  return top;
}
