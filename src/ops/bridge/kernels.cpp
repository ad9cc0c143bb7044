// The CPU kernels' loops. Compiled with -DADMIRAL_INSTRUCTION_SET=name for each instruction set: see kernels.h.
// Every loop is written so that the compiler turns it into vector instructions; nothing here depends on which.
#include "kernels.h"

namespace admiral {
namespace {

// ---- numbers ----

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

// e^x within 2 units in the last place, between e^-87 and e^88 beyond those; NaN stays NaN.
inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  // x = n ln 2 + r. Adding 1.5 * 2^23 rounds to an integer, which then lies in the low bits.
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float sum = 1.0f / 5040;
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
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

// ---- group normalization ----
//
// Memory is walked in periods: a run of `period` values after which the coefficients repeat. Where channels lie
// innermost a period is a few positions with all their channels, else a stretch of one channel. Coefficients are
// spread over a period once, so that the inner loops are long and know nothing of the layout.

constexpr int64_t kPeriod = 512;
// Periods summed in float32 before the sums go to float64: the error does not grow with the image.
constexpr int64_t kBlock = 32;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t period_of(const GroupNorm& norm) {
  if (!norm.channels_last) return smaller(norm.spatial, kPeriod);
  return norm.channels * smaller(norm.spatial, larger(1, kPeriod / norm.channels));
}

// A stretch of memory with one set of coefficients: the whole sample, or one channel of it.
struct Stretch {
  int64_t offset;
  int64_t length;
  int64_t period;
  int64_t channel;       // of the first value
  int64_t num_channels;  // how many a period cycles through
};

int64_t num_stretches(const GroupNorm& norm) { return norm.channels_last ? 1 : norm.channels; }

Stretch stretch_at(const GroupNorm& norm, int64_t index) {
  if (norm.channels_last) return {0, norm.channels * norm.spatial, period_of(norm), 0, norm.channels};
  return {index * norm.spatial, norm.spatial, period_of(norm), index, 1};
}

void spread(const Stretch& s, const float* per_channel, float* over_period) {
  for (int64_t p = 0; p < s.period; p += s.num_channels)
    for (int64_t c = 0; c < s.num_channels; ++c) over_period[p + c] = per_channel[s.channel + c];
}

void fill(float* values, int64_t length, float value) {
  for (int64_t i = 0; i < length; ++i) values[i] = value;
}

// Adds the sums of a period to those of its channels, and clears them.
void fold(const Stretch& s, float* over_period, double* per_channel) {
  for (int64_t c = 0; c < s.num_channels; ++c) {
    double sum = 0;
    for (int64_t p = c; p < s.period; p += s.num_channels) sum += over_period[p];
    per_channel[s.channel + c] += sum;
  }
  fill(over_period, s.period, 0);
}

// Calls body(start, length) for each period of a stretch, and after_block() after every few.
template <typename Body, typename AfterBlock>
inline void for_periods(const Stretch& s, Body body, AfterBlock after_block) {
  int64_t in_block = 0;
  for (int64_t start = 0; start < s.length; start += s.period) {
    body(start, smaller(s.period, s.length - start));
    if (++in_block == kBlock) {
      after_block();
      in_block = 0;
    }
  }
  after_block();
}

// Scratch memory, cut into arrays. Doubles come first, so that they are aligned where the whole is.
struct Scratch {
  double* sums;    // [channels]
  double* sums2;   // [channels]
  float* channel[3];
  float* period[6];

  Scratch(const GroupNorm& norm, float* memory) {
    const int64_t c = norm.channels, p = period_of(norm);
    sums = reinterpret_cast<double*>(memory);
    sums2 = sums + c;
    float* next = memory + 4 * c;
    for (float*& array : channel) {
      array = next;
      next += c;
    }
    for (float*& array : period) {
      array = next;
      next += p;
    }
  }
};

int64_t group_norm_scratch(const GroupNorm& norm) { return 7 * norm.channels + 6 * period_of(norm); }

void clear(double* sums, int64_t length) {
  for (int64_t i = 0; i < length; ++i) sums[i] = 0;
}

double group_sum(const GroupNorm& norm, const double* per_channel, int64_t group) {
  const int64_t width = norm.channels / norm.num_groups;
  double sum = 0;
  for (int64_t c = group * width; c < (group + 1) * width; ++c) sum += per_channel[c];
  return sum;
}

// The coefficients with which z = x * factor + offset.
void affine(const GroupNorm& norm, const float* mean, const float* rstd, float* factor, float* offset) {
  const int64_t width = norm.channels / norm.num_groups;
  for (int64_t c = 0; c < norm.channels; ++c) {
    const float gain = rstd[c / width] * norm.weight[c];
    const float rest = norm.bias[c] - mean[c / width] * gain;
    factor[c] = norm.scale ? gain * (1 + norm.scale[c]) : gain;
    offset[c] = norm.scale ? rest * (1 + norm.scale[c]) + norm.shift[c] : rest;
  }
}

void group_norm_forward(const GroupNorm& norm, const float* x_sample, float* y_sample, float* mean, float* rstd,
                        float* memory) {
  Scratch scratch(norm, memory);
  const int64_t width = norm.channels / norm.num_groups;
  const double count = static_cast<double>(width * norm.spatial);

  clear(scratch.sums, norm.channels);
  for (int64_t index = 0; index < num_stretches(norm); ++index) {
    const Stretch s = stretch_at(norm, index);
    const float* const x = x_sample + s.offset;
    float* const sum = scratch.period[0];
    fill(sum, s.period, 0);
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) sum[i] += x[start + i];
        },
        [&] { fold(s, sum, scratch.sums); });
  }
  for (int64_t group = 0; group < norm.num_groups; ++group)
    mean[group] = static_cast<float>(group_sum(norm, scratch.sums, group) / count);

  // A second pass over what is in cache by now: squares of differences do not cancel.
  float* const mean_of_channel = scratch.channel[0];
  for (int64_t c = 0; c < norm.channels; ++c) mean_of_channel[c] = mean[c / width];
  clear(scratch.sums, norm.channels);
  for (int64_t index = 0; index < num_stretches(norm); ++index) {
    const Stretch s = stretch_at(norm, index);
    const float* const x = x_sample + s.offset;
    float* const sum = scratch.period[0];
    float* const center = scratch.period[1];
    fill(sum, s.period, 0);
    spread(s, mean_of_channel, center);
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) {
            const float difference = x[start + i] - center[i];
            sum[i] += difference * difference;
          }
        },
        [&] { fold(s, sum, scratch.sums); });
  }
  for (int64_t group = 0; group < norm.num_groups; ++group)
    rstd[group] = static_cast<float>(1 / __builtin_sqrt(group_sum(norm, scratch.sums, group) / count + norm.eps));

  affine(norm, mean, rstd, scratch.channel[0], scratch.channel[1]);
  for (int64_t index = 0; index < num_stretches(norm); ++index) {
    const Stretch s = stretch_at(norm, index);
    const float* const x = x_sample + s.offset;
    float* const y = y_sample + s.offset;
    float* const factor = scratch.period[0];
    float* const offset = scratch.period[1];
    spread(s, scratch.channel[0], factor);
    spread(s, scratch.channel[1], offset);
    const bool silu = norm.silu;
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
          if (silu) {
#pragma omp simd
            for (int64_t i = 0; i < length; ++i) {
              const float z = x[start + i] * factor[i] + offset[i];
              y[start + i] = z * sigmoid(z);
            }
          } else {
#pragma omp simd
            for (int64_t i = 0; i < length; ++i) y[start + i] = x[start + i] * factor[i] + offset[i];
          }
        },
        [] {});
  }
}

void group_norm_backward(const GroupNorm& norm, const float* x_sample, const float* dy_sample, const float* mean,
                         const float* rstd, float* dx_sample, const GroupNormSums& sums, float* memory) {
  Scratch scratch(norm, memory);
  const int64_t width = norm.channels / norm.num_groups;
  const double count = static_cast<double>(width * norm.spatial);

  // First pass: dz into dx's memory, and per channel the sums of dz and of dz * (x - mean).
  affine(norm, mean, rstd, scratch.channel[0], scratch.channel[1]);
  for (int64_t c = 0; c < norm.channels; ++c) scratch.channel[2][c] = mean[c / width];
  clear(scratch.sums, norm.channels);
  clear(scratch.sums2, norm.channels);
  for (int64_t index = 0; index < num_stretches(norm); ++index) {
    const Stretch s = stretch_at(norm, index);
    const float* const x = x_sample + s.offset;
    const float* const dy = dy_sample + s.offset;
    float* const dz = dx_sample + s.offset;
    float* const factor = scratch.period[0];
    float* const offset = scratch.period[1];
    float* const center = scratch.period[2];
    float* const sum = scratch.period[3];
    float* const sum2 = scratch.period[4];
    spread(s, scratch.channel[0], factor);
    spread(s, scratch.channel[1], offset);
    spread(s, scratch.channel[2], center);
    fill(sum, s.period, 0);
    fill(sum2, s.period, 0);
    const bool silu = norm.silu;
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
          if (silu) {
#pragma omp simd
            for (int64_t i = 0; i < length; ++i) {
              const float z = x[start + i] * factor[i] + offset[i];
              const float gate = sigmoid(z);
              const float gradient = dy[start + i] * (gate * (1 + z * (1 - gate)));
              dz[start + i] = gradient;
              sum[i] += gradient;
              sum2[i] += gradient * (x[start + i] - center[i]);
            }
          } else {
#pragma omp simd
            for (int64_t i = 0; i < length; ++i) {
              const float gradient = dy[start + i];
              dz[start + i] = gradient;
              sum[i] += gradient;
              sum2[i] += gradient * (x[start + i] - center[i]);
            }
          }
        },
        [&] {
          fold(s, sum, scratch.sums);
          fold(s, sum2, scratch.sums2);
        });
  }

  // Second pass: dx = rstd * (g - mean(g) - normalized * mean(g * normalized)), with g = dz * (1 + scale) * weight,
  // as dz * gain + (x - mean) * slope + level.
  float* const gain = scratch.channel[0];
  float* const slope = scratch.channel[1];
  float* const level = scratch.channel[2];
  for (int64_t group = 0; group < norm.num_groups; ++group) {
    const float r = rstd[group];
    double sum_g = 0, sum_g_normalized = 0;
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
      const double multiplier = (norm.scale ? 1.0 + norm.scale[c] : 1.0) * norm.weight[c];
      const double dz_normalized = scratch.sums2[c] * r;
      sums.dz[c] = static_cast<float>(scratch.sums[c]);
      sums.dz_normalized[c] = static_cast<float>(dz_normalized);
      sum_g += multiplier * scratch.sums[c];
      sum_g_normalized += multiplier * dz_normalized;
      gain[c] = static_cast<float>(multiplier * r);
    }
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
      slope[c] = static_cast<float>(-static_cast<double>(r) * r * sum_g_normalized / count);
      level[c] = static_cast<float>(-r * sum_g / count);
    }
  }
  for (int64_t index = 0; index < num_stretches(norm); ++index) {
    const Stretch s = stretch_at(norm, index);
    const float* const x = x_sample + s.offset;
    float* const dx = dx_sample + s.offset;
    float* const gain_p = scratch.period[0];
    float* const slope_p = scratch.period[1];
    float* const level_p = scratch.period[3];
    float* const center = scratch.period[2];
    spread(s, gain, gain_p);
    spread(s, slope, slope_p);
    spread(s, level, level_p);
    for (int64_t p = 0; p < s.period; p += s.num_channels)
      for (int64_t c = 0; c < s.num_channels; ++c) center[p + c] = mean[(s.channel + c) / width];
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
#pragma omp simd
          for (int64_t i = 0; i < length; ++i)
            dx[start + i] = dx[start + i] * gain_p[i] + ((x[start + i] - center[i]) * slope_p[i] + level_p[i]);
        },
        [] {});
  }
}

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
    adam_loop(memory, update, length, read, [=](int64_t i, float p) { half[i] = to_half(p); });
  } else {
    adam_loop(memory, update, length, read, [=](int64_t i, float p) { half[i] = to_bfloat16(p); });
  }
}

void adam(const AdamMemory& memory, const AdamUpdate& update, int64_t length) {
  if (memory.gradient_kind == Kind::kFloat) {
    const float* const g = static_cast<const float*>(memory.gradient);
    adam_write(memory, update, length, [=](int64_t i) { return g[i]; });
  } else if (memory.gradient_kind == Kind::kHalf) {
    const uint16_t* const g = static_cast<const uint16_t*>(memory.gradient);
    adam_write(memory, update, length, [=](int64_t i) { return from_half(g[i]); });
  } else {
    const uint16_t* const g = static_cast<const uint16_t*>(memory.gradient);
    adam_write(memory, update, length, [=](int64_t i) { return from_bfloat16(g[i]); });
  }
}

void average(float* ema, const float* master, float rate, float rest, int64_t length) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) ema[i] = ema[i] * rate + master[i] * rest;
}

// ---- norms ----

template <typename Read>
inline double squares(int64_t length, Read read) {
  constexpr int64_t kLanes = 32;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) {
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = read(i + lane);
      lanes[lane] += value * value;
    }
  }
  for (; i < length; ++i) {
    const double value = read(i);
    lanes[i % kLanes] += value * value;
  }
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

double sum_of_squares(const void* values, Kind kind, int64_t length) {
  if (kind == Kind::kFloat) {
    const float* const v = static_cast<const float*>(values);
    return squares(length, [=](int64_t i) { return v[i]; });
  }
  const uint16_t* const v = static_cast<const uint16_t*>(values);
  if (kind == Kind::kHalf) return squares(length, [=](int64_t i) { return from_half(v[i]); });
  return squares(length, [=](int64_t i) { return from_bfloat16(v[i]); });
}

}  // namespace

#define ADMIRAL_JOIN2(a, b) a##b
#define ADMIRAL_JOIN(a, b) ADMIRAL_JOIN2(a, b)
#define ADMIRAL_TEXT2(a) #a
#define ADMIRAL_TEXT(a) ADMIRAL_TEXT2(a)

extern const Kernels ADMIRAL_JOIN(kernels_, ADMIRAL_INSTRUCTION_SET);
const Kernels ADMIRAL_JOIN(kernels_, ADMIRAL_INSTRUCTION_SET) = {
    ADMIRAL_TEXT(ADMIRAL_INSTRUCTION_SET), group_norm_scratch, group_norm_forward, group_norm_backward,
    adam, average, sum_of_squares,
};

}  // namespace admiral
