// Numbers as the CPU kernels compute with them: the sigmoid, half kinds, and tensors of any kind as float32.
// A part of kernels.cpp: see there.
#pragma once

#include "kernels.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace admiral {
namespace {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// e^x within 3 units in the last place, between e^-87 and e^88 beyond those; NaN stays NaN.
inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  // x = n ln 2 + r. Adding 1.5 * 2^23 rounds to an integer, which then lies in the low bits.
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  // 1 + r + r^2 (...), the bracket fitted for the least relative error over |r| < ln 2 / 2: 1.1e-7.
  float sum = 8.3125010e-3f;
  sum = sum * r + 4.1890331e-2f;
  sum = sum * r + 1.6667116e-1f;
  sum = sum * r + 4.9999231e-1f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  return sum * float_of((bits_of(shifted) + 127u) << 23);
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float from_bfloat16(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }

inline uint16_t to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

inline float from_half(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  // The product with 2^112 moves the exponent to its place, and makes subnormals right.
  const uint32_t finite = bits_of(float_of(magnitude) * 0x1p112f);
  const uint32_t infinite = magnitude | 0x7f800000u;
  const uint32_t result = magnitude >= 0x0f800000u ? infinite : finite;
  return float_of(result | static_cast<uint32_t>(bits & 0x8000u) << 16);
}

inline uint16_t to_half(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Adding 0.5 leaves a value below 2^-14 in the low bits, rounded to a multiple of 2^-24 by the addition itself.
  const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t result = magnitude < 0x38800000u ? small : normal;
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  return static_cast<uint16_t>(result | sign);
}

// ---- half kinds, a run of values at a time ----

#if defined(__AVX512F__)
// All lanes: GCC warns of its own unmasked intrinsics.
constexpr __mmask16 kAll = 0xffff;
#endif

void widen(const uint16_t* from, Kind kind, float* to, int64_t length) {
  if (kind == Kind::kBFloat16) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) to[i] = from_bfloat16(from[i]);
    return;
  }
  int64_t done = 0;
#if defined(__AVX512F__)
  for (; done + 16 <= length; done += 16)
    _mm512_storeu_ps(to + done, _mm512_maskz_cvtph_ps(
                                    kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + done))));
#elif defined(__F16C__)
  for (; done + 8 <= length; done += 8)
    _mm256_storeu_ps(to + done, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + done))));
#endif
#pragma omp simd
  for (int64_t i = done; i < length; ++i) to[i] = from_half(from[i]);
}

void narrow(const float* from, Kind kind, uint16_t* to, int64_t length) {
  if (kind == Kind::kBFloat16) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) to[i] = to_bfloat16(from[i]);
    return;
  }
  int64_t done = 0;
#if defined(__AVX512F__)
  for (; done + 16 <= length; done += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + done),
                        _mm512_maskz_cvtps_ph(kAll, _mm512_loadu_ps(from + done), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  for (; done + 8 <= length; done += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + done),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + done), _MM_FROUND_TO_NEAREST_INT));
#endif
#pragma omp simd
  for (int64_t i = done; i < length; ++i) to[i] = to_half(from[i]);
}

// How the loops below see a tensor: float32 where it lies, a half kind through a buffer in the first-level cache.
template <Kind kind>
struct Access {
  static const float* read(const void* memory, int64_t start, int64_t length, float* buffer) {
    widen(static_cast<const uint16_t*>(memory) + start, kind, buffer, length);
    return buffer;
  }
  static float* place(void*, int64_t, float* buffer) { return buffer; }
  static void write(const float* buffer, void* memory, int64_t start, int64_t length) {
    narrow(buffer, kind, static_cast<uint16_t*>(memory) + start, length);
  }
};

template <>
struct Access<Kind::kFloat> {
  static const float* read(const void* memory, int64_t start, int64_t, float*) {
    return static_cast<const float*>(memory) + start;
  }
  static float* place(void* memory, int64_t start, float*) { return static_cast<float*>(memory) + start; }
  static void write(const float*, void*, int64_t, int64_t) {}
};

}  // namespace
}  // namespace admiral
