// Kernels of flat memory on the CPU: the optimizer and norms. Included by kernels.cpp.
#pragma once

#include "kernels_numbers.inl"

namespace admiral {
namespace {

// ---- the optimizer ----

template <typename Read, typename Write>
inline void adam_loop(const AdamMemory& memory, const AdamUpdate& u, int64_t length, Read read, Write write) {
  float* const master = memory.master;
  float* const mean = memory.mean;
  float* const variance = memory.variance;
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) {
    const float gradient = read(i) * u.gradient_scale;
    const float m = mean[i] + (gradient - mean[i]) * u.beta1_rest;
    const float v = variance[i] * u.beta2 + gradient * gradient * u.beta2_rest;
    const float p = master[i] * u.decay - u.step_size * m / (__builtin_sqrtf(v) * u.root_correction + u.epsilon);
    mean[i] = m;
    variance[i] = v;
    master[i] = p;
    write(i, p);
  }
}

template <typename Read>
inline void adam_write(const AdamMemory& memory, const AdamUpdate& update, int64_t length, Read read) {
  uint16_t* const half = static_cast<uint16_t*>(memory.half);
  if (!half) {
    adam_loop(memory, update, length, read, [](int64_t, float) {});
  } else if (memory.half_kind == Kind::kHalf) {
    adam_loop(memory, update, length, read, [=](int64_t i, float p) { half[i] = static_cast<uint16_t>(to_half(p)); });
  } else {
    adam_loop(memory, update, length, read,
              [=](int64_t i, float p) { half[i] = static_cast<uint16_t>(to_bfloat16(p)); });
  }
}

void adam(const AdamMemory& memory, const AdamUpdate& update, int64_t length) {
  if (memory.gradient_kind == Kind::kFloat) {
    const float* const g = static_cast<const float*>(memory.gradient);
    adam_write(memory, update, length, [=](int64_t i) { return g[i]; });
  } else if (memory.gradient_kind == Kind::kHalf) {
    const uint16_t* const g = static_cast<const uint16_t*>(memory.gradient);
    adam_write(memory, update, length, [=](int64_t i) { return from_half(uint32_t{g[i]}); });
  } else {
    const uint16_t* const g = static_cast<const uint16_t*>(memory.gradient);
    adam_write(memory, update, length, [=](int64_t i) { return from_bfloat16(uint32_t{g[i]}); });
  }
}

void average(float* ema, const float* master, float rate, float rest, int64_t length) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) ema[i] = ema[i] * rate + master[i] * rest;
}

// ---- norms ----

template <typename Read>
inline double squares(int64_t length, Read read) {
  constexpr int64_t kSums = 32;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= length; i += kSums) {
#pragma omp simd
    for (int64_t lane = 0; lane < kSums; ++lane) {
      const double value = read(i + lane);
      sums[lane] += value * value;
    }
  }
  for (; i < length; ++i) {
    const double value = read(i);
    sums[i % kSums] += value * value;
  }
  double sum = 0;
  for (double part : sums) sum += part;
  return sum;
}

double sum_of_squares(const void* values, Kind kind, int64_t length) {
  if (kind == Kind::kFloat) {
    const float* const v = static_cast<const float*>(values);
    return squares(length, [=](int64_t i) { return v[i]; });
  }
  const uint16_t* const v = static_cast<const uint16_t*>(values);
  if (kind == Kind::kHalf) return squares(length, [=](int64_t i) { return from_half(uint32_t{v[i]}); });
  return squares(length, [=](int64_t i) { return from_bfloat16(uint32_t{v[i]}); });
}

}  // namespace
}  // namespace admiral
