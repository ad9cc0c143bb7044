// Arithmetic of the CPU kernels: conversion of half kinds, the sigmoid, and access to tensors of any kind as float32
// vectors. Included by kernels.cpp.
#pragma once

#include "kernels.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace admiral {
namespace {

// The number of float32 values in a vector register.
#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#elif defined(__AVX__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

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

inline Words bits_of(Floats values) { return reinterpret_cast<Words>(values); }
inline Floats float_of(Words bits) { return reinterpret_cast<Floats>(bits); }

// ---- half kinds: one value or kLanes values, with their bits in the low half of a word ----

template <typename Word>
inline auto from_bfloat16(Word bits) {
  return float_of(bits << 16);
}

template <typename Float>
inline auto to_bfloat16(Float value) {
  const auto bits = bits_of(value);
  const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return value != value ? rounded * 0u + 0x7fc0u : rounded;
}

template <typename Word>
inline auto from_half(Word bits) {
  const Word magnitude = (bits & 0x7fffu) << 13;
  // The product with 2^112 corrects the exponent, and converts subnormals correctly.
  const Word finite = bits_of(float_of(magnitude) * 0x1p112f);
  const Word infinite = magnitude | 0x7f800000u;
  const Word result = magnitude >= 0x0f800000u ? infinite : finite;
  return float_of(result | (bits & 0x8000u) << 16);
}

template <typename Float>
inline auto to_half(Float value) {
  const auto bits = bits_of(value);
  const auto sign = (bits >> 16) & 0x8000u;
  const auto magnitude = bits & 0x7fffffffu;
  // Values below 2^-14: the addition of 0.5 rounds them to multiples of 2^-24 and moves them to the low bits.
  const auto small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const auto normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  auto result = magnitude < 0x38800000u ? small : normal;
  result = magnitude >= 0x477ff000u ? result * 0u + 0x7c00u : result;
  result = magnitude > 0x7f800000u ? result * 0u + 0x7e00u : result;
  return result | sign;
}

// ---- the sigmoid ----

#if defined(__AVX512F__)
// A mask of all lanes. The unmasked intrinsics cause warnings in GCC's own headers.
constexpr __mmask16 kAll = 0xffff;
#endif

// Clamps x to -limit..limit. NaN is preserved.
inline Floats clamp(Floats x, float limit) {
#if defined(__AVX512F__)
  const Floats high = limit + Floats{}, low = -limit + Floats{};
  return _mm512_maskz_min_ps(kAll, high, _mm512_maskz_max_ps(kAll, low, x));
#else
  x = x > limit ? limit + Floats{} : x;
  return x < -limit ? -limit + Floats{} : x;
#endif
}

// e^x for -87 <= x <= 87, with an error of at most 3 units in the last place.
inline Floats exponential(Floats x) {
  // x = n ln 2 + r. The addition of 1.5 * 2^23 rounds to an integer and moves it to the low bits.
  const Floats shifted = x * 1.44269504f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  // 1 + r + r^2 (...), fitted for the smallest relative error over |r| < ln 2 / 2, which is 1.1e-7.
  Floats sum = 8.3125010e-3f * r + 4.1890331e-2f;
  sum = sum * r + 1.6667116e-1f;
  sum = sum * r + 4.9999231e-1f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(kAll, sum, n);
#else
  return sum * float_of((bits_of(shifted) + 127u) << 23);
#endif
}

inline Floats sigmoid(Floats x) {
  const Floats denominator = 1.0f + exponential(clamp(-x, 87.0f));
#if defined(__AVX512F__)
  // A division is as slow as ten multiplications. One Newton step improves the estimate from 14 to 23 bits.
  const Floats guess = _mm512_maskz_rcp14_ps(kAll, denominator);
  return guess + guess * (1.0f - denominator * guess);
#else
  return 1.0f / denominator;
#endif
}

// ---- memory ----

// The lanes that are in memory: all, or only the first ones at the end of an array. The other lanes are 0.
struct AllLanes {};
struct FirstLanes {
  int64_t count;
};

template <typename Vector, typename Value>
inline Vector load_bits(AllLanes, const Value* from) {
  Vector values;
  __builtin_memcpy(&values, from, sizeof values);
  return values;
}

template <typename Vector, typename Value>
inline Vector load_bits(FirstLanes lanes, const Value* from) {
  Vector values{};
  for (int64_t i = 0; i < lanes.count; ++i) values[i] = from[i];
  return values;
}

template <typename Vector, typename Value>
inline void store_bits(AllLanes, Value* to, Vector values) {
  __builtin_memcpy(to, &values, sizeof values);
}

template <typename Vector, typename Value>
inline void store_bits(FirstLanes lanes, Value* to, Vector values) {
  for (int64_t i = 0; i < lanes.count; ++i) to[i] = values[i];
}

template <typename Lanes>
inline Floats load(Lanes lanes, const float* from) {
  return load_bits<Floats>(lanes, from);
}

template <typename Lanes>
inline Words load(Lanes lanes, const uint32_t* from) {
  return load_bits<Words>(lanes, from);
}

template <typename Lanes>
inline void store(Lanes lanes, float* to, Floats values) {
  store_bits(lanes, to, values);
}

// Loads values from index `at` of a tensor of any kind.
template <Kind kind, typename Lanes>
inline Floats load_as(Lanes lanes, const void* memory, int64_t at) {
  if constexpr (kind == Kind::kFloat) {
    return load(lanes, static_cast<const float*>(memory) + at);
  } else {
    const Halves bits = load_bits<Halves>(lanes, static_cast<const uint16_t*>(memory) + at);
#if defined(__AVX512F__)
    if constexpr (kind == Kind::kHalf) return _mm512_maskz_cvtph_ps(kAll, reinterpret_cast<__m256i>(bits));
#elif defined(__F16C__)
    if constexpr (kind == Kind::kHalf) return _mm256_cvtph_ps(reinterpret_cast<__m128i>(bits));
#endif
    const Words words = __builtin_convertvector(bits, Words);
    return kind == Kind::kHalf ? from_half(words) : from_bfloat16(words);
  }
}

// Stores values to index `at` of a tensor of any kind.
template <Kind kind, typename Lanes>
inline void store_as(Lanes lanes, void* memory, int64_t at, Floats values) {
  if constexpr (kind == Kind::kFloat) {
    store(lanes, static_cast<float*>(memory) + at, values);
  } else {
    uint16_t* const to = static_cast<uint16_t*>(memory) + at;
#if defined(__AVX512F__)
    if constexpr (kind == Kind::kHalf)
      return store_bits(lanes, to, reinterpret_cast<Halves>(
                                       _mm512_maskz_cvtps_ph(kAll, values, _MM_FROUND_TO_NEAREST_INT)));
#if defined(__AVX512BF16__)
    // Rounds as to_bfloat16, except that magnitudes below 2^-126 become 0.
    if constexpr (kind == Kind::kBFloat16)
      return store_bits(lanes, to, reinterpret_cast<Halves>(_mm512_maskz_cvtneps_pbh(kAll, values)));
#endif
#elif defined(__F16C__)
    if constexpr (kind == Kind::kHalf)
      return store_bits(lanes, to, reinterpret_cast<Halves>(_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT)));
#endif
    const Words words = kind == Kind::kHalf ? to_half(values) : to_bfloat16(values);
    store_bits(lanes, to, __builtin_convertvector(words, Halves));
  }
}

// Calls body(lanes, i) for each vector of kLanes indices in 0 <= i < length.
template <typename Body>
inline void for_lanes(int64_t length, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) body(AllLanes{}, i);
  if (i < length) body(FirstLanes{length - i}, i);
}

}  // namespace
}  // namespace admiral
