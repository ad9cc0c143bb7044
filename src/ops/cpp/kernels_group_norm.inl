// Group normalization on the CPU. Included by kernels.cpp.
#pragma once

#include "kernels_numbers.inl"

namespace admiral {
namespace {

// Loops process memory in periods: arrays of `period` values after which the coefficients repeat. In channels-last
// layout a period is a few positions with all their channels, otherwise a part of one channel. Coefficients are
// expanded to a period once, so that the inner loops are long and independent of the layout.

constexpr int64_t kPeriod = 512;
// Periods that are summed in float32 before the sums are added in float64, so that the error does not grow with the
// image.
constexpr int64_t kBlock = 32;
// Periods whose mean is the reference point of deviations.
constexpr int64_t kPivot = 8;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t period_of(const GroupNorm& norm) {
  if (!norm.channels_last) return smaller(norm.spatial, kPeriod);
  return norm.channels * smaller(norm.spatial, larger(1, kPeriod / norm.channels));
}

// Contiguous memory with one set of coefficients: a piece, or one channel of it.
struct Stretch {
  int64_t offset;        // from the sample's first value
  int64_t length;
  int64_t period;
  int64_t channel;       // of the first value
  int64_t num_channels;  // in a period
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

// Expands the coefficients of channels to a period.
void expand(const Stretch& s, const float* per_channel, float* over_period) {
  if (s.num_channels == 1) return fill(over_period, s.period, per_channel[s.channel]);
  for (int64_t p = 0; p < s.period; p += s.num_channels)
    for (int64_t c = 0; c < s.num_channels; ++c) over_period[p + c] = per_channel[s.channel + c];
}

void clear(double* sums, int64_t length) {
  for (int64_t i = 0; i < length; ++i) sums[i] = 0;
}

// Adds the sums of a period to the sums of its channels, which start at `per_channel`, and clears the former.
void add_to_channels(const Stretch& s, float* over_period, double* per_channel) {
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

// Calls body(start, length) for each period of a stretch, and after_block() after every kBlock periods.
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

constexpr int64_t kPeriodArrays = 7;

int64_t group_norm_scratch(const GroupNorm& norm) { return kPeriodArrays * period_of(norm); }

template <Kind kind>
void moments_of(const GroupNorm& norm, const Piece& piece, const void* x_sample, double* mean, double* squares,
                float* scratch) {
  const int64_t period = period_of(norm);
  float* const sum = scratch;
  float* const sum2 = scratch + period;
  float* const center = scratch + 2 * period;
  for (int64_t index = 0; index < num_stretches(norm, piece); ++index) {
    const Stretch s = stretch_at(norm, piece, index);
    double* const mean_of = mean + (s.channel - piece.channel);
    double* const squares_of = squares + (s.channel - piece.channel);
    // Deviations are taken from the mean of the first values of each channel. Cancellation is small: if the fraction p
    // of the values has a mean at distance d from the channel's mean, the variance is at least p d^2.
    Stretch pivot = s;
    pivot.length = smaller(s.length, kPivot * s.period);
    fill(sum, s.period, 0);
    clear(mean_of, s.num_channels);
    for_periods(
        pivot,
        [=](int64_t start, int64_t length) {
          for_lanes(length, [=](auto lanes, int64_t i) {
            store(lanes, sum + i, load(lanes, sum + i) + load_as<kind>(lanes, x_sample, s.offset + start + i));
          });
        },
        [&] { add_to_channels(s, sum, mean_of); });
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
          for_lanes(length, [=](auto lanes, int64_t i) {
            const Floats x = load_as<kind>(lanes, x_sample, s.offset + start + i);
            const Floats difference = x - load(lanes, center + i);
            store(lanes, sum + i, load(lanes, sum + i) + difference);
            store(lanes, sum2 + i, load(lanes, sum2 + i) + difference * difference);
          });
        },
        [&] {
          add_to_channels(s, sum, mean_of);
          add_to_channels(s, sum2, squares_of);
        });
    const double count = static_cast<double>(s.length / s.num_channels);
    for (int64_t c = 0; c < s.num_channels; ++c) {
      const double difference = mean_of[c] / count;
      squares_of[c] -= difference * mean_of[c];
      mean_of[c] = center[c] + difference;
    }
  }
}

// Writes the index of each value of a period in the sample, as [channels, spatial] in every layout.
void write_indices(const GroupNorm& norm, const Stretch& s, uint32_t* index) {
  for (int64_t p = 0, position = s.position; p < s.period; p += s.num_channels, ++position)
    for (int64_t c = 0; c < s.num_channels; ++c)
      index[p + c] = static_cast<uint32_t>((s.channel + c) * norm.spatial + position);
}

// Returns 0 for values that the mask drops, otherwise 1 / (1 - probability). The random bits are the integer hash
// `lowbias32` of the index, with the keys mixed in.
inline Floats dropout_factor(const DropoutMask& mask, Words index) {
  Words x = index ^ mask.key0;
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x += mask.key1;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x < mask.drop_below ? Floats{} : mask.keep_scale + Floats{};
}

template <Kind kind, bool silu, bool dropout>
void forward_of(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x_sample, void* y_sample,
                float* scratch) {
  const int64_t period = period_of(norm);
  float* const factor = scratch;
  float* const offset = scratch + period;
  uint32_t* const index = reinterpret_cast<uint32_t*>(scratch + 2 * period);
  const DropoutMask mask = norm.mask;
  for (int64_t i = 0; i < num_stretches(norm, piece); ++i) {
    const Stretch s = stretch_at(norm, piece, i);
    expand(s, affine.factor, factor);
    expand(s, affine.offset, offset);
    if (dropout) write_indices(norm, s, index);
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
          const uint32_t first = dropout ? static_cast<uint32_t>(start / s.num_channels) : 0;
          for_lanes(length, [=](auto lanes, int64_t i) {
            const int64_t at = s.offset + start + i;
            const Floats x = load_as<kind>(lanes, x_sample, at);
            const Floats z = x * load(lanes, factor + i) + load(lanes, offset + i);
            Floats y = silu ? z * sigmoid(z) : z;
            if (dropout) y *= dropout_factor(mask, load(lanes, index + i) + first);
            store_as<kind>(lanes, y_sample, at, y);
          });
        },
        [] {});
  }
}

// Returns the gradient of z, the input of SiLU and dropout, from the gradient of their output.
template <bool silu, bool dropout>
inline Floats before_activation(Floats z, Floats dy, const DropoutMask& mask, Words index) {
  const Floats gradient = dropout ? dy * dropout_factor(mask, index) : dy;
  if (!silu) return gradient;
  const Floats gate = sigmoid(z);
  return gradient * (gate * (1.0f + z * (1.0f - gate)));
}

// Returns the part of a stretch in an array with one value for each value of the piece.
float* stretch_part(float* values, const GroupNorm& norm, const Piece& piece, const Stretch& s) {
  return values + (s.offset - stretch_at(norm, piece, 0).offset);
}

template <Kind kind, bool silu, bool dropout>
void backward_sums_of(const GroupNorm& norm, const Piece& piece, const Affine& affine, const void* x_sample,
                      const void* dy_sample, float* dz_piece, double* sum_dz, double* sum_dz_centered,
                      float* scratch) {
  const int64_t period = period_of(norm);
  float* const factor = scratch;
  float* const offset = scratch + period;
  float* const center = scratch + 2 * period;
  float* const sum = scratch + 3 * period;
  float* const sum2 = scratch + 4 * period;
  uint32_t* const index = reinterpret_cast<uint32_t*>(scratch + 5 * period);
  const DropoutMask mask = norm.mask;
  for (int64_t i = 0; i < num_stretches(norm, piece); ++i) {
    const Stretch s = stretch_at(norm, piece, i);
    double* const sum_of = sum_dz + (s.channel - piece.channel);
    double* const sum2_of = sum_dz_centered + (s.channel - piece.channel);
    expand(s, affine.factor, factor);
    expand(s, affine.offset, offset);
    expand(s, affine.center, center);
    if (dropout) write_indices(norm, s, index);
    fill(sum, s.period, 0);
    fill(sum2, s.period, 0);
    clear(sum_of, s.num_channels);
    clear(sum2_of, s.num_channels);
    float* const dz = dz_piece ? stretch_part(dz_piece, norm, piece, s) : nullptr;
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
          const uint32_t first = dropout ? static_cast<uint32_t>(start / s.num_channels) : 0;
          for_lanes(length, [=](auto lanes, int64_t i) {
            const int64_t at = s.offset + start + i;
            const Floats x = load_as<kind>(lanes, x_sample, at), dy = load_as<kind>(lanes, dy_sample, at);
            const Floats z = x * load(lanes, factor + i) + load(lanes, offset + i);
            const Words indices = dropout ? load(lanes, index + i) + first : Words{};
            const Floats gradient = before_activation<silu, dropout>(z, dy, mask, indices);
            store(lanes, sum + i, load(lanes, sum + i) + gradient);
            store(lanes, sum2 + i, load(lanes, sum2 + i) + gradient * (x - load(lanes, center + i)));
            if (dz) store(lanes, dz + start + i, gradient);
          });
        },
        [&] {
          add_to_channels(s, sum, sum_of);
          add_to_channels(s, sum2, sum2_of);
        });
  }
}

template <Kind kind, bool silu, bool dropout>
void backward_of(const GroupNorm& norm, const Piece& piece, const Affine& affine, const Slopes& slopes,
                 const void* x_sample, const void* dy_sample, float* dz_piece, void* dx_sample, float* scratch) {
  const int64_t period = period_of(norm);
  float* const factor = scratch;
  float* const offset = scratch + period;
  float* const center = scratch + 2 * period;
  float* const gain = scratch + 3 * period;
  float* const slope = scratch + 4 * period;
  float* const level = scratch + 5 * period;
  uint32_t* const index = reinterpret_cast<uint32_t*>(scratch + 6 * period);
  const DropoutMask mask = norm.mask;
  for (int64_t i = 0; i < num_stretches(norm, piece); ++i) {
    const Stretch s = stretch_at(norm, piece, i);
    expand(s, affine.factor, factor);
    expand(s, affine.offset, offset);
    expand(s, affine.center, center);
    expand(s, slopes.gain, gain);
    expand(s, slopes.slope, slope);
    expand(s, slopes.level, level);
    const auto write = [=](auto lanes, int64_t i, int64_t at, Floats x, Floats dz) {
      const Floats rest = (x - load(lanes, center + i)) * load(lanes, slope + i) + load(lanes, level + i);
      store_as<kind>(lanes, dx_sample, at, dz * load(lanes, gain + i) + rest);
    };
    if (dz_piece) {
      const float* const dz = stretch_part(dz_piece, norm, piece, s);
      const auto body = [=](int64_t start, int64_t length) {
        for_lanes(length, [=](auto lanes, int64_t i) {
          const int64_t at = s.offset + start + i;
          write(lanes, i, at, load_as<kind>(lanes, x_sample, at), load(lanes, dz + start + i));
        });
      };
      for_periods(s, body, [] {});
      continue;
    }
    if (dropout) write_indices(norm, s, index);
    for_periods(
        s,
        [=](int64_t start, int64_t length) {
          const uint32_t first = dropout ? static_cast<uint32_t>(start / s.num_channels) : 0;
          for_lanes(length, [=](auto lanes, int64_t i) {
            const int64_t at = s.offset + start + i;
            const Floats x = load_as<kind>(lanes, x_sample, at), dy = load_as<kind>(lanes, dy_sample, at);
            const Floats z = x * load(lanes, factor + i) + load(lanes, offset + i);
            const Words indices = dropout ? load(lanes, index + i) + first : Words{};
            write(lanes, i, at, x, before_activation<silu, dropout>(z, dy, mask, indices));
          });
        },
        [] {});
  }
}

// Compile-time values for the functions below, which call `body` with the kind, SiLU and dropout of a normalization.
template <bool value>
struct Flag {
  static constexpr bool kValue = value;
};

template <Kind kind>
struct KindTag {
  static constexpr Kind kValue = kind;
};

template <typename Body>
void with_kind(const GroupNorm& norm, Body body) {
  if (norm.kind == Kind::kFloat) return body(KindTag<Kind::kFloat>());
  if (norm.kind == Kind::kHalf) return body(KindTag<Kind::kHalf>());
  body(KindTag<Kind::kBFloat16>());
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
                              const void* dy, float* dz, double* sum_dz, double* sum_dz_centered, float* scratch) {
  with_activation(norm, [&](auto kind, auto silu, auto dropout) {
    backward_sums_of<decltype(kind)::kValue, decltype(silu)::kValue, decltype(dropout)::kValue>(
        norm, piece, affine, x, dy, dz, sum_dz, sum_dz_centered, scratch);
  });
}

void group_norm_backward(const GroupNorm& norm, const Piece& piece, const Affine& affine, const Slopes& slopes,
                         const void* x, const void* dy, float* dz, void* dx, float* scratch) {
  with_activation(norm, [&](auto kind, auto silu, auto dropout) {
    backward_of<decltype(kind)::kValue, decltype(silu)::kValue, decltype(dropout)::kValue>(
        norm, piece, affine, slopes, x, dy, dz, dx, scratch);
  });
}

}  // namespace
}  // namespace admiral
