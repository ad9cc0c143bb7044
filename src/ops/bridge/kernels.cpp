// The CPU kernels' loops. Compiled with -DADMIRAL_INSTRUCTION_SET=name for each instruction set: see kernels.h.
// Every loop is written so that the compiler turns it into vector instructions; nothing here depends on which.
#include "kernels.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

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

// ---- group normalization ----
//
// Memory is walked in periods: a run of `period` values after which the coefficients repeat. Where channels lie
// innermost a period is a few positions with all their channels, else a stretch of one channel. Coefficients are
// spread over a period once, so that the inner loops are long and know nothing of the layout.

constexpr int64_t kPeriod = 512;
// Periods summed in float32 before the sums go to float64: the error does not grow with the image.
constexpr int64_t kBlock = 32;
// Periods whose mean the deviations are taken from.
constexpr int64_t kPivot = 8;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t period_of(const GroupNorm& norm) {
  if (!norm.channels_last) return smaller(norm.spatial, kPeriod);
  return norm.channels * smaller(norm.spatial, larger(1, kPeriod / norm.channels));
}

// A stretch of memory with one set of coefficients: a piece, or one channel of it.
struct Stretch {
  int64_t offset;        // from the sample's first value
  int64_t length;
  int64_t period;
  int64_t channel;       // of the first value
  int64_t num_channels;  // how many a period cycles through
  int64_t position;      // of the first value
};

int64_t num_stretches(const GroupNorm& norm, const Piece& piece) { return norm.channels_last ? 1 : piece.num_channels; }

Stretch stretch_at(const GroupNorm& norm, const Piece& piece, int64_t index) {
  const int64_t period = period_of(norm);
  if (norm.channels_last)
    return {piece.position * norm.channels, piece.num_positions * norm.channels, period, 0, norm.channels,
            piece.position};
  return {(piece.channel + index) * norm.spatial, norm.spatial, period, piece.channel + index, 1, 0};
}

void fill(float* values, int64_t length, float value) {
  for (int64_t i = 0; i < length; ++i) values[i] = value;
}

void spread(const Stretch& s, const float* per_channel, float* over_period) {
  if (s.num_channels == 1) return fill(over_period, s.period, per_channel[s.channel]);
  for (int64_t p = 0; p < s.period; p += s.num_channels)
    for (int64_t c = 0; c < s.num_channels; ++c) over_period[p + c] = per_channel[s.channel + c];
}

void clear(double* sums, int64_t length) {
  for (int64_t i = 0; i < length; ++i) sums[i] = 0;
}

// Adds the sums of a period to those of its channels, which start at `per_channel`, and clears them.
void fold(const Stretch& s, float* over_period, double* per_channel) {
  if (s.num_channels == 1) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t p = 0; p < s.period; ++p) sum += static_cast<double>(over_period[p]);
    per_channel[0] += sum;
    return fill(over_period, s.period, 0);
  }
  for (int64_t c = 0; c < s.num_channels; ++c) {
    double sum = 0;
    for (int64_t p = c; p < s.period; p += s.num_channels) sum += over_period[p];
    per_channel[c] += sum;
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

constexpr int64_t kPeriodArrays = 12;

int64_t group_norm_scratch(const GroupNorm& norm) { return kPeriodArrays * period_of(norm); }

template <Kind kind>
void moments_of(const GroupNorm& norm, const Piece& piece, const void* x_sample, double* mean, double* squares,
                float* scratch) {
  const int64_t period = period_of(norm);
  float* const sum = scratch;
  float* const sum2 = scratch + period;
  float* const center = scratch + 2 * period;
  float* const buffer = scratch + 3 * period;
  for (int64_t index = 0; index < num_stretches(norm, piece); ++index) {
    const Stretch s = stretch_at(norm, piece, index);
    double* const mean_of = mean + (s.channel - piece.channel);
    double* const squares_of = squares + (s.channel - piece.channel);
    const auto read = [=](int64_t start, int64_t length) {
      return Access<kind>::read(x_sample, s.offset + start, length, buffer);
    };

    // Deviations from the mean of the first values of each channel: their squares hardly cancel, since a channel of
    // which a share p lies a distance d from its mean has a variance of p d^2 at least.
    Stretch pivot = s;
    pivot.length = smaller(s.length, kPivot * s.period);
    fill(sum, s.period, 0);
    clear(mean_of, s.num_channels);
    for_periods(
        pivot,
        [=](int64_t start, int64_t length) {
          const float* const x = read(start, length);
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) sum[i] += x[i];
        },
        [&] { fold(s, sum, mean_of); });
    const double num_pivots = static_cast<double>(pivot.length / s.num_channels);
    if (s.num_channels == 1) {
      fill(center, s.period, static_cast<float>(mean_of[0] / num_pivots));
    } else {
      for (int64_t p = 0; p < s.period; p += s.num_channels)
        for (int64_t c = 0; c < s.num_channels; ++c) center[p + c] = static_cast<float>(mean_of[c] / num_pivots);
    }

    fill(sum2, s.period, 0);
    clear(mean_of, s.num_channels);
    clear(squares_of, s.num_channels);
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
          const float* const x = read(start, length);
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) {
            const float difference = x[i] - center[i];
            sum[i] += difference;
            sum2[i] += difference * difference;
          }
        },
        [&] {
          fold(s, sum, mean_of);
          fold(s, sum2, squares_of);
        });
    const double count = static_cast<double>(s.length / s.num_channels);
    for (int64_t c = 0; c < s.num_channels; ++c) {
      const double difference = mean_of[c] / count;
      squares_of[c] -= difference * mean_of[c];
      mean_of[c] = center[c] + difference;
    }
  }
}

// Writes the index of each value of a period among the sample's, [channels, spatial] in any layout.
void number(const GroupNorm& norm, const Stretch& s, uint32_t* index) {
  for (int64_t p = 0, position = s.position; p < s.period; p += s.num_channels, ++position)
    for (int64_t c = 0; c < s.num_channels; ++c)
      index[p + c] = static_cast<uint32_t>((s.channel + c) * norm.spatial + position);
}

// 0 where the mask drops a value, else 1 / (1 - probability): the integer hash `lowbias32` with keys added.
inline float kept(const DropoutMask& mask, uint32_t index) {
  uint32_t x = index ^ mask.key0;
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x += mask.key1;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x < mask.drop_below ? 0.0f : mask.keep_scale;
}

template <Kind kind, bool silu, bool dropout>
void forward_of(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x_sample, void* y_sample,
                float* scratch) {
  const int64_t period = period_of(norm);
  float* const factor = scratch;
  float* const offset = scratch + period;
  uint32_t* const index = reinterpret_cast<uint32_t*>(scratch + 2 * period);
  float* const x_buffer = scratch + 3 * period;
  float* const y_buffer = scratch + 4 * period;
  const DropoutMask mask = norm.mask;
  for (int64_t i = 0; i < num_stretches(norm, piece); ++i) {
    const Stretch s = stretch_at(norm, piece, i);
    spread(s, affine.factor, factor);
    spread(s, affine.offset, offset);
    if (dropout) number(norm, s, index);
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
          const float* const x = Access<kind>::read(x_sample, s.offset + start, length, x_buffer);
          float* const y = Access<kind>::place(y_sample, s.offset + start, y_buffer);
          const uint32_t first = dropout ? static_cast<uint32_t>(start / s.num_channels) : 0;
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) {
            const float z = x[i] * factor[i] + offset[i];
            float out = silu ? z * sigmoid(z) : z;
            if (dropout) out *= kept(mask, index[i] + first);
            y[i] = out;
          }
          Access<kind>::write(y, y_sample, s.offset + start, length);
        },
        [] {});
  }
}

// The gradient before dropout and SiLU, of one after them.
template <bool silu, bool dropout>
inline float before_activation(float z, float dy, const DropoutMask& mask, uint32_t index) {
  float gradient = dropout ? dy * kept(mask, index) : dy;
  if (silu) {
    const float gate = sigmoid(z);
    gradient *= gate * (1 + z * (1 - gate));
  }
  return gradient;
}

template <Kind kind, bool silu, bool dropout>
void backward_sums_of(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x_sample,
                      const void* dy_sample, void* dx_sample, double* sum_dz, double* sum_dz_centered, float* scratch) {
  const int64_t period = period_of(norm);
  float* const factor = scratch;
  float* const offset = scratch + period;
  float* const center = scratch + 2 * period;
  float* const sum = scratch + 3 * period;
  float* const sum2 = scratch + 4 * period;
  uint32_t* const index = reinterpret_cast<uint32_t*>(scratch + 5 * period);
  float* const x_buffer = scratch + 6 * period;
  float* const dy_buffer = scratch + 7 * period;
  const DropoutMask mask = norm.mask;
  for (int64_t i = 0; i < num_stretches(norm, piece); ++i) {
    const Stretch s = stretch_at(norm, piece, i);
    double* const sum_of = sum_dz + (s.channel - piece.channel);
    double* const sum2_of = sum_dz_centered + (s.channel - piece.channel);
    spread(s, affine.factor, factor);
    spread(s, affine.offset, offset);
    spread(s, affine.center, center);
    if (dropout) number(norm, s, index);
    fill(sum, s.period, 0);
    fill(sum2, s.period, 0);
    clear(sum_of, s.num_channels);
    clear(sum2_of, s.num_channels);
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
          const float* const x = Access<kind>::read(x_sample, s.offset + start, length, x_buffer);
          const float* const dy = Access<kind>::read(dy_sample, s.offset + start, length, dy_buffer);
          const uint32_t first = dropout ? static_cast<uint32_t>(start / s.num_channels) : 0;
          // Kept for the second pass in float32; a half kind would round it, and computes it again.
          float* const dz = kind == Kind::kFloat ? static_cast<float*>(dx_sample) + s.offset + start : x_buffer;
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) {
            const float z = x[i] * factor[i] + offset[i];
            const float gradient =
                before_activation<silu, dropout>(z, dy[i], mask, dropout ? index[i] + first : 0);
            sum[i] += gradient;
            sum2[i] += gradient * (x[i] - center[i]);
            if (kind == Kind::kFloat) dz[i] = gradient;
          }
        },
        [&] {
          fold(s, sum, sum_of);
          fold(s, sum2, sum2_of);
        });
  }
}

template <Kind kind, bool silu, bool dropout>
void backward_of(const GroupNorm& norm, const Piece& piece, const Affine& affine, const Slopes& slopes,
                 const void* x_sample, const void* dy_sample, void* dx_sample, float* scratch) {
  const int64_t period = period_of(norm);
  float* const factor = scratch;
  float* const offset = scratch + period;
  float* const center = scratch + 2 * period;
  float* const gain = scratch + 3 * period;
  float* const slope = scratch + 4 * period;
  float* const level = scratch + 5 * period;
  uint32_t* const index = reinterpret_cast<uint32_t*>(scratch + 6 * period);
  float* const x_buffer = scratch + 7 * period;
  float* const dy_buffer = scratch + 8 * period;
  float* const dx_buffer = scratch + 9 * period;
  const DropoutMask mask = norm.mask;
  for (int64_t i = 0; i < num_stretches(norm, piece); ++i) {
    const Stretch s = stretch_at(norm, piece, i);
    spread(s, affine.factor, factor);
    spread(s, affine.offset, offset);
    spread(s, affine.center, center);
    spread(s, slopes.gain, gain);
    spread(s, slopes.slope, slope);
    spread(s, slopes.level, level);
    if (dropout) number(norm, s, index);
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
          const float* const x = Access<kind>::read(x_sample, s.offset + start, length, x_buffer);
          float* const dx = Access<kind>::place(dx_sample, s.offset + start, dx_buffer);
          if (kind == Kind::kFloat) {
#pragma omp simd
            for (int64_t i = 0; i < length; ++i)
              dx[i] = dx[i] * gain[i] + ((x[i] - center[i]) * slope[i] + level[i]);
          } else {
            const float* const dy = Access<kind>::read(dy_sample, s.offset + start, length, dy_buffer);
            const uint32_t first = dropout ? static_cast<uint32_t>(start / s.num_channels) : 0;
#pragma omp simd
            for (int64_t i = 0; i < length; ++i) {
              const float z = x[i] * factor[i] + offset[i];
              const float dz = before_activation<silu, dropout>(z, dy[i], mask, dropout ? index[i] + first : 0);
              dx[i] = dz * gain[i] + ((x[i] - center[i]) * slope[i] + level[i]);
            }
          }
          Access<kind>::write(dx, dx_sample, s.offset + start, length);
        },
        [] {});
  }
}

// Calls body with the kind, SiLU and dropout of a normalization as types.
template <bool value>
struct Flag {
  static constexpr bool kValue = value;
};

template <Kind kind>
struct Of {
  static constexpr Kind kValue = kind;
};

template <typename Body>
void with_kind(const GroupNorm& norm, Body body) {
  if (norm.kind == Kind::kFloat) return body(Of<Kind::kFloat>());
  if (norm.kind == Kind::kHalf) return body(Of<Kind::kHalf>());
  body(Of<Kind::kBFloat16>());
}

template <typename Body>
void with_activation(const GroupNorm& norm, Body body) {
  const bool dropout = norm.mask.drop_below != 0;
  with_kind(norm, [=](auto kind) {
    if (norm.silu && dropout) return body(kind, Flag<true>(), Flag<true>());
    if (norm.silu) return body(kind, Flag<true>(), Flag<false>());
    if (dropout) return body(kind, Flag<false>(), Flag<true>());
    body(kind, Flag<false>(), Flag<false>());
  });
}

void group_norm_moments(const GroupNorm& norm, const Piece& piece, const void* x, double* mean, double* squares,
                        float* scratch) {
  with_kind(norm, [&](auto kind) { moments_of<decltype(kind)::kValue>(norm, piece, x, mean, squares, scratch); });
}

void group_norm_forward(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x, void* y,
                        float* scratch) {
  with_activation(norm, [&](auto kind, auto silu, auto dropout) {
    forward_of<decltype(kind)::kValue, decltype(silu)::kValue, decltype(dropout)::kValue>(norm, piece, affine, x, y,
                                                                                          scratch);
  });
}

void group_norm_backward_sums(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x,
                              const void* dy, void* dx, double* dz, double* dz_centered, float* scratch) {
  with_activation(norm, [&](auto kind, auto silu, auto dropout) {
    backward_sums_of<decltype(kind)::kValue, decltype(silu)::kValue, decltype(dropout)::kValue>(
        norm, piece, affine, x, dy, dx, dz, dz_centered, scratch);
  });
}

void group_norm_backward(const GroupNorm& norm, const Piece& piece, const Affine& affine, const Slopes& slopes,
                         const void* x, const void* dy, void* dx, float* scratch) {
  with_activation(norm, [&](auto kind, auto silu, auto dropout) {
    backward_of<decltype(kind)::kValue, decltype(silu)::kValue, decltype(dropout)::kValue>(norm, piece, affine, slopes,
                                                                                           x, dy, dx, scratch);
  });
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
    ADMIRAL_TEXT(ADMIRAL_INSTRUCTION_SET), group_norm_scratch, group_norm_moments, group_norm_forward,
    group_norm_backward_sums, group_norm_backward, adam, average, sum_of_squares,
};

}  // namespace admiral
