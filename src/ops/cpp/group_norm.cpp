// Group normalization with scale, shift, SiLU and dropout as a single autograd node on the CPU, for float32 and half
// kinds, computed in float32. Only the input and the group statistics are saved for backward, which computes the
// dropout mask again.
#include "bridge.h"
#include "kernels.h"
#include "layout.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

namespace admiral {
namespace {

using at::Tensor;
using torch::autograd::variable_list;

// The properties that all samples share.
struct Spec {
  GroupNorm norm;
  int64_t num_groups;
  double eps;
  int64_t batch;
  uint64_t seed;
  // The number of pieces of a sample. It depends only on the shape and layout.
  int64_t num_pieces;
  // Whether pieces contain whole groups, so that one thread can run all passes while a piece is in the cache.
  bool whole_groups;
  std::optional<double> dropout;
};

// Values of a piece of a channels-last sample, chosen so that the second pass finds them in the second-level cache.
constexpr int64_t kPieceValues = 65536;

Kind kind_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return Kind::kFloat;
    case at::kHalf: return Kind::kHalf;
    case at::kBFloat16: return Kind::kBFloat16;
    default: TORCH_CHECK(false, "x is of the kind ", x.scalar_type());
  }
}

int64_t bytes_of(Kind kind) { return kind == Kind::kFloat ? 4 : 2; }

// Mixes the bits of a number (the finalizer of SplitMix64).
uint64_t mix(uint64_t value) {
  uint64_t z = value + 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

DropoutMask mask_of(double probability, uint64_t seed, int64_t sample) {
  const uint64_t keys = mix(seed ^ mix(static_cast<uint64_t>(sample)));
  const double below = std::round(probability * 4294967296.0);
  return {static_cast<uint32_t>(std::min(below, 4294967295.0)), static_cast<float>(1 / (1 - probability)),
          static_cast<uint32_t>(keys), static_cast<uint32_t>(keys >> 32)};
}

Spec spec_of(const Tensor& x, bool channels_last, int64_t num_groups, double eps, bool silu,
             std::optional<double> dropout, uint64_t seed) {
  Spec spec{};
  spec.norm.channels = x.size(1);
  spec.batch = x.size(0);
  spec.norm.spatial = x.numel() / std::max<int64_t>(1, spec.batch * spec.norm.channels);
  spec.norm.channels_last = channels_last;
  spec.norm.silu = silu;
  spec.norm.kind = kind_of(x);
  spec.num_groups = num_groups;
  spec.eps = eps;
  spec.dropout = dropout;
  spec.seed = seed;
  const int64_t values = spec.norm.channels * spec.norm.spatial;
  if (!channels_last)
    spec.num_pieces = num_groups;
  else
    spec.num_pieces = std::clamp<int64_t>(values / kPieceValues, 1, std::max<int64_t>(1, spec.norm.spatial));
  spec.whole_groups = !channels_last || spec.num_pieces == 1;
  return spec;
}

GroupNorm sample_of(const Spec& spec, int64_t sample) {
  GroupNorm norm = spec.norm;
  if (spec.dropout) norm.mask = mask_of(*spec.dropout, spec.seed, sample);
  return norm;
}

Piece piece_at(const Spec& spec, int64_t index) {
  const GroupNorm& norm = spec.norm;
  if (!norm.channels_last) {
    const int64_t width = norm.channels / spec.num_groups;
    return {index * width, width, 0, norm.spatial};
  }
  const int64_t begin = index * norm.spatial / spec.num_pieces, end = (index + 1) * norm.spatial / spec.num_pieces;
  return {0, norm.channels, begin, end - begin};
}

// Memory of one thread, reused for all of its pieces.
struct Scratch {
  float* arrays;
  float* dz;  // [values of the piece], or null
};

// Whether backward stores dz in a buffer between its two passes over a piece. float32 needs no buffer and uses the
// memory of dx, where a half kind would be rounded. A half kind uses a buffer if it fits in the second-level cache.
// Otherwise it computes dz again, which is as fast as reading it from memory.
bool needs_dz_buffer(const Spec& spec) { return spec.norm.kind != Kind::kFloat && spec.whole_groups; }

// Calls body(sample, index of the piece, scratch) for each piece, on libtorch's threads.
template <typename Body>
void for_pieces(const Spec& spec, bool with_dz, Body body) {
  const Kernels& k = kernels();
  const int64_t values = spec.norm.channels * spec.norm.spatial / spec.num_pieces;
  // The grain is 8192 values. Libtorch's elementwise operations use 32768, but each value needs more work here.
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, values));
  at::parallel_for(0, spec.batch * spec.num_pieces, grain, [&](int64_t begin, int64_t end) {
    const int64_t arrays = k.group_norm_scratch(spec.norm);
    const std::unique_ptr<float[]> memory(new float[static_cast<size_t>(arrays + (with_dz ? values : 0))]);
    const Scratch scratch{memory.get(), with_dz ? memory.get() + arrays : nullptr};
    for (int64_t i = begin; i < end; ++i) body(i / spec.num_pieces, i % spec.num_pieces, scratch);
  });
}

// Two sums for each channel of each piece, in float64.
struct Sums {
  int64_t channels;  // of a piece
  int64_t num_pieces;
  std::vector<double> first, second;

  explicit Sums(const Spec& spec)
      : channels(piece_at(spec, 0).num_channels),
        num_pieces(spec.num_pieces),
        first(static_cast<size_t>(spec.batch * spec.num_pieces * channels)),
        second(first.size()) {}

  int64_t offset(int64_t sample, int64_t piece) const { return (sample * num_pieces + piece) * channels; }
};

// The pieces that contain a group, and the first channel of the group in them.
struct GroupPieces {
  int64_t first_piece, num_pieces, channel;
};

GroupPieces pieces_of(const Spec& spec, int64_t group) {
  if (!spec.norm.channels_last) return {group, 1, 0};
  return {0, spec.num_pieces, group * (spec.norm.channels / spec.num_groups)};
}

// The range of groups in a piece, if pieces contain whole groups.
std::pair<int64_t, int64_t> groups_of(const Spec& spec, int64_t piece) {
  if (!spec.norm.channels_last) return {piece, piece + 1};
  return {0, spec.num_groups};
}

// The coefficients and statistics of a sample's channels, float32.
struct Sample {
  const float *weight, *bias, *scale, *shift;  // [channels]; the last two may be null
  float *mean, *rstd;                          // [num_groups]
  float *factor, *offset, *center, *gain, *slope, *level;  // [channels]

  Affine affine() const { return {factor, offset, center}; }
  Slopes slopes() const { return {gain, slope, level}; }
};

// The small float32 tensors, and the coefficients of each sample.
struct Coefficients {
  Tensor weight, bias, scale, shift, mean, rstd;
  std::vector<float> space;  // [batch, 6, channels]
  int64_t channels, num_groups;

  Sample of(int64_t sample) {
    float* const own = space.data() + sample * 6 * channels;
    Sample s{};
    s.weight = weight.const_data_ptr<float>();
    s.bias = bias.const_data_ptr<float>();
    s.scale = scale.defined() ? scale.const_data_ptr<float>() + sample * channels : nullptr;
    s.shift = shift.defined() ? shift.const_data_ptr<float>() + sample * channels : nullptr;
    s.mean = mean.mutable_data_ptr<float>() + sample * num_groups;
    s.rstd = rstd.mutable_data_ptr<float>() + sample * num_groups;
    s.factor = own;
    s.offset = own + channels;
    s.center = own + 2 * channels;
    s.gain = own + 3 * channels;
    s.slope = own + 4 * channels;
    s.level = own + 5 * channels;
    return s;
  }
};

// Computes the mean and 1 / standard deviation of a group from the moments of its channels (Chan et al., 1983).
void finish_group(const Spec& spec, const Sums& moments, int64_t sample, int64_t group, const Sample& s) {
  const int64_t width = spec.norm.channels / spec.num_groups;
  const GroupPieces pieces = pieces_of(spec, group);
  const double count = static_cast<double>(width * spec.norm.spatial);
  double sum = 0;
  for (int64_t p = pieces.first_piece; p < pieces.first_piece + pieces.num_pieces; ++p) {
    const double* const means = moments.first.data() + moments.offset(sample, p) + pieces.channel;
    for (int64_t c = 0; c < width; ++c) sum += means[c] * static_cast<double>(piece_at(spec, p).num_positions);
  }
  const double mean = sum / count;
  double squares = 0;
  for (int64_t p = pieces.first_piece; p < pieces.first_piece + pieces.num_pieces; ++p) {
    const int64_t at = moments.offset(sample, p) + pieces.channel;
    for (int64_t c = 0; c < width; ++c) {
      const double difference = moments.first[static_cast<size_t>(at + c)] - mean;
      squares += moments.second[static_cast<size_t>(at + c)] +
                 static_cast<double>(piece_at(spec, p).num_positions) * difference * difference;
    }
  }
  s.mean[group] = static_cast<float>(mean);
  s.rstd[group] = static_cast<float>(1 / std::sqrt(squares / count + spec.eps));
}

// Computes the coefficients of z = x * factor + offset for the channels of a group.
void set_affine(const Spec& spec, int64_t group, const Sample& s) {
  const int64_t width = spec.norm.channels / spec.num_groups;
  for (int64_t c = group * width; c < (group + 1) * width; ++c) {
    const float gain = s.rstd[group] * s.weight[c];
    const float rest = s.bias[c] - s.mean[group] * gain;
    s.factor[c] = s.scale ? gain * (1 + s.scale[c]) : gain;
    s.offset[c] = s.scale ? rest * (1 + s.scale[c]) + s.shift[c] : rest;
    s.center[c] = s.mean[group];
  }
}

// Computes the coefficients of dx = dz * gain + (x - mean) * slope + level for the channels of a group. This is equal
// to rstd * (g - mean(g) - normalized * mean(g * normalized)) with g = dz * (1 + scale) * weight. Also writes the sums
// over positions of dz and of dz * normalized, for the gradients of the parameters.
void set_slopes(const Spec& spec, const Sums& sums, int64_t sample, int64_t group, const Sample& s, float* dz,
                float* dz_normalized) {
  const int64_t width = spec.norm.channels / spec.num_groups;
  const GroupPieces pieces = pieces_of(spec, group);
  const double count = static_cast<double>(width * spec.norm.spatial);
  const double r = s.rstd[group];
  double sum_g = 0, sum_g_normalized = 0;
  for (int64_t c = 0; c < width; ++c) {
    double first = 0, second = 0;
    for (int64_t p = pieces.first_piece; p < pieces.first_piece + pieces.num_pieces; ++p) {
      const size_t at = static_cast<size_t>(sums.offset(sample, p) + pieces.channel + c);
      first += sums.first[at];
      second += sums.second[at];
    }
    const int64_t channel = group * width + c;
    const double multiplier = (s.scale ? 1.0 + s.scale[channel] : 1.0) * s.weight[channel];
    dz[channel] = static_cast<float>(first);
    dz_normalized[channel] = static_cast<float>(second * r);
    sum_g += multiplier * first;
    sum_g_normalized += multiplier * second * r;
    s.gain[channel] = static_cast<float>(multiplier * r);
  }
  for (int64_t c = group * width; c < (group + 1) * width; ++c) {
    s.slope[c] = static_cast<float>(-r * r * sum_g_normalized / count);
    s.level[c] = static_cast<float>(-r * sum_g / count);
  }
}

void forward_on(const Spec& spec, Coefficients& coefficients, const char* x, char* y) {
  const Kernels& k = kernels();
  const int64_t bytes = spec.norm.channels * spec.norm.spatial * bytes_of(spec.norm.kind);
  Sums moments(spec);
  const auto compute_moments = [&](int64_t sample, int64_t piece, const Scratch& scratch) {
    const size_t at = static_cast<size_t>(moments.offset(sample, piece));
    k.group_norm_moments(spec.norm, piece_at(spec, piece), x + sample * bytes, &moments.first[at], &moments.second[at],
                         scratch.arrays);
  };
  const auto set_coefficients = [&](int64_t sample, int64_t group) {
    const Sample s = coefficients.of(sample);
    finish_group(spec, moments, sample, group, s);
    set_affine(spec, group, s);
  };
  const auto write = [&](int64_t sample, int64_t piece, const Scratch& scratch) {
    k.group_norm_forward(sample_of(spec, sample), piece_at(spec, piece), coefficients.of(sample).affine(),
                         x + sample * bytes, y + sample * bytes, scratch.arrays);
  };
  if (spec.whole_groups) {
    for_pieces(spec, false, [&](int64_t sample, int64_t piece, const Scratch& scratch) {
      compute_moments(sample, piece, scratch);
      const auto [begin, end] = groups_of(spec, piece);
      for (int64_t group = begin; group < end; ++group) set_coefficients(sample, group);
      write(sample, piece, scratch);
    });
    return;
  }
  for_pieces(spec, false, compute_moments);
  at::parallel_for(0, spec.batch * spec.num_groups, spec.num_groups, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) set_coefficients(i / spec.num_groups, i % spec.num_groups);
  });
  for_pieces(spec, false, write);
}

// `dz` and `dz_normalized` are sums over positions, [batch, channels].
void backward_on(const Spec& spec, Coefficients& coefficients, const char* x, const char* dy, char* dx, float* dz,
                 float* dz_normalized) {
  const Kernels& k = kernels();
  const int64_t bytes = spec.norm.channels * spec.norm.spatial * bytes_of(spec.norm.kind);
  Sums sums(spec);
  for (int64_t sample = 0; sample < spec.batch; ++sample)
    for (int64_t group = 0; group < spec.num_groups; ++group) set_affine(spec, group, coefficients.of(sample));
  const auto dz_at = [&](int64_t sample, int64_t piece, const Scratch& scratch) -> float* {
    if (spec.norm.kind != Kind::kFloat) return scratch.dz;
    const Piece part = piece_at(spec, piece);
    const int64_t start =
        spec.norm.channels_last ? part.position * spec.norm.channels : part.channel * spec.norm.spatial;
    return reinterpret_cast<float*>(dx + sample * bytes) + start;
  };
  const auto compute_sums = [&](int64_t sample, int64_t piece, const Scratch& scratch) {
    const size_t at = static_cast<size_t>(sums.offset(sample, piece));
    k.group_norm_backward_sums(sample_of(spec, sample), piece_at(spec, piece), coefficients.of(sample).affine(),
                               x + sample * bytes, dy + sample * bytes, dz_at(sample, piece, scratch), &sums.first[at],
                               &sums.second[at], scratch.arrays);
  };
  const auto set_coefficients = [&](int64_t sample, int64_t group) {
    set_slopes(spec, sums, sample, group, coefficients.of(sample), dz + sample * spec.norm.channels,
               dz_normalized + sample * spec.norm.channels);
  };
  const auto write = [&](int64_t sample, int64_t piece, const Scratch& scratch) {
    const Sample s = coefficients.of(sample);
    k.group_norm_backward(sample_of(spec, sample), piece_at(spec, piece), s.affine(), s.slopes(), x + sample * bytes,
                          dy + sample * bytes, dz_at(sample, piece, scratch), dx + sample * bytes, scratch.arrays);
  };
  if (spec.whole_groups) {
    for_pieces(spec, needs_dz_buffer(spec), [&](int64_t sample, int64_t piece, const Scratch& scratch) {
      compute_sums(sample, piece, scratch);
      const auto [begin, end] = groups_of(spec, piece);
      for (int64_t group = begin; group < end; ++group) set_coefficients(sample, group);
      write(sample, piece, scratch);
    });
    return;
  }
  for_pieces(spec, false, compute_sums);
  at::parallel_for(0, spec.batch * spec.num_groups, spec.num_groups, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) set_coefficients(i / spec.num_groups, i % spec.num_groups);
  });
  for_pieces(spec, false, write);
}

// Returns [batch, channels] as contiguous float32, or an undefined tensor.
Tensor contiguous_float(const std::optional<Tensor>& t, const Tensor& x) {
  return t ? t->reshape({x.size(0), x.size(1)}).to(at::kFloat).contiguous() : Tensor();
}

class GroupNormSilu : public torch::autograd::Function<GroupNormSilu> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_any, const Tensor& weight_any,
                        const Tensor& bias_any, const std::optional<Tensor>& scale_any,
                        const std::optional<Tensor>& shift_any, int64_t num_groups, double eps, bool silu,
                        double dropout, int64_t seed) {
    const bool channels_last = !x_any.is_contiguous() && is_channels_last(x_any);
    const Tensor x = channels_last ? x_any : x_any.contiguous();
    const Spec spec = spec_of(x, channels_last, num_groups, eps, silu, if_positive(dropout),
                              static_cast<uint64_t>(seed));
    Coefficients coefficients = gather(spec, weight_any.to(at::kFloat).contiguous(),
                                       bias_any.to(at::kFloat).contiguous(), contiguous_float(scale_any, x),
                                       contiguous_float(shift_any, x));
    Tensor y = at::empty_strided(x.sizes(), x.strides(), x.options());
    coefficients.mean = at::empty({spec.batch, num_groups}, coefficients.weight.options());
    coefficients.rstd = at::empty_like(coefficients.mean);
    if (x.numel() != 0)
      forward_on(spec, coefficients, static_cast<const char*>(x.const_data_ptr()),
                 static_cast<char*>(y.mutable_data_ptr()));
    context->save_for_backward({x, weight_any, bias_any, scale_any.value_or(Tensor()), shift_any.value_or(Tensor()),
                                coefficients.mean, coefficients.rstd});
    context->saved_data["channels_last"] = channels_last;
    context->saved_data["num_groups"] = num_groups;
    context->saved_data["eps"] = eps;
    context->saved_data["silu"] = silu;
    context->saved_data["dropout"] = dropout;
    context->saved_data["seed"] = seed;
    return y;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &scale = saved[3], &shift = saved[4];
    const Spec spec = spec_of(x, context->saved_data["channels_last"].toBool(),
                              context->saved_data["num_groups"].toInt(), context->saved_data["eps"].toDouble(),
                              context->saved_data["silu"].toBool(),
                              if_positive(context->saved_data["dropout"].toDouble()),
                              static_cast<uint64_t>(context->saved_data["seed"].toInt()));
    const auto optional = [](const Tensor& t) { return t.defined() ? std::optional<Tensor>(t) : std::nullopt; };
    Coefficients coefficients = gather(spec, weight.to(at::kFloat).contiguous(), bias.to(at::kFloat).contiguous(),
                                       contiguous_float(optional(scale), x), contiguous_float(optional(shift), x));
    coefficients.mean = saved[5];
    coefficients.rstd = saved[6];

    Tensor dy = gradients[0];
    if (dy.strides() != x.strides()) dy = at::empty_strided(x.sizes(), x.strides(), x.options()).copy_(dy);
    Tensor dx = at::empty_strided(x.sizes(), x.strides(), x.options());
    Tensor sum = at::empty({spec.batch, spec.norm.channels}, coefficients.mean.options());
    Tensor sum_normalized = at::empty_like(sum);
    if (x.numel() != 0) {
      backward_on(spec, coefficients, static_cast<const char*>(x.const_data_ptr()),
                  static_cast<const char*>(dy.const_data_ptr()), static_cast<char*>(dx.mutable_data_ptr()),
                  sum.mutable_data_ptr<float>(), sum_normalized.mutable_data_ptr<float>());
    } else {
      sum.zero_();
      sum_normalized.zero_();
    }
    // The remaining computation is on small tensors, [batch, channels].
    Tensor dscale, dshift, dweight, dbias;
    if (scale.defined()) {
      const Tensor scale_gradient = sum_normalized * coefficients.weight + sum * coefficients.bias;
      dscale = scale_gradient.reshape(scale.sizes()).to(scale.scalar_type());
      dshift = sum.reshape(shift.sizes()).to(shift.scalar_type());
      const Tensor multiplier = coefficients.scale + 1;
      dweight = (sum_normalized * multiplier).sum(0);
      dbias = (sum * multiplier).sum(0);
    } else {
      dweight = sum_normalized.sum(0);
      dbias = sum.sum(0);
    }
    dweight = dweight.to(weight.scalar_type());
    dbias = dbias.to(bias.scalar_type());
    return {dx, dweight, dbias, dscale, dshift, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }

 private:
  static std::optional<double> if_positive(double dropout) {
    return dropout > 0 ? std::optional<double>(dropout) : std::nullopt;
  }

  static Coefficients gather(const Spec& spec, Tensor weight, Tensor bias, Tensor scale, Tensor shift) {
    Coefficients coefficients;
    coefficients.weight = std::move(weight);
    coefficients.bias = std::move(bias);
    coefficients.scale = std::move(scale);
    coefficients.shift = std::move(shift);
    coefficients.channels = spec.norm.channels;
    coefficients.num_groups = spec.num_groups;
    coefficients.space.resize(static_cast<size_t>(spec.batch * 6 * spec.norm.channels));
    return coefficients;
  }
};

}  // namespace
}  // namespace admiral

extern "C" {

// `scale` and `shift` are both null or both not null. `dropout` is a probability below 1, and 0 disables dropout. The
// result is a new tensor that the caller owns.
int admiral_group_norm_silu(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias,
                            const at::Tensor* scale, const at::Tensor* shift, int64_t num_groups, double eps,
                            bool silu, double dropout, int64_t seed, at::Tensor** result) {
  return admiral::guarded([&] {
    TORCH_CHECK(x->dim() >= 2 && num_groups > 0 && x->size(1) % num_groups == 0, "x has the shape ", x->sizes(),
                ", which ", num_groups, " groups do not divide");
    TORCH_CHECK(weight->numel() == x->size(1) && bias->numel() == x->size(1), "weight and bias have ",
                weight->numel(), " and ", bias->numel(), " values for ", x->size(1), " channels");
    TORCH_CHECK(dropout >= 0 && dropout < 1, "dropout with the probability ", dropout, ", which is not below 1");
    TORCH_CHECK(dropout == 0 || x->numel() / std::max<int64_t>(1, x->size(0)) <= int64_t{1} << 32,
                "dropout numbers the values of a sample with 32 bits, and x has the shape ", x->sizes());
    const auto optional = [](const at::Tensor* t) { return t ? std::optional<at::Tensor>(*t) : std::nullopt; };
    *result = new at::Tensor(admiral::GroupNormSilu::apply(*x, *weight, *bias, optional(scale), optional(shift),
                                                           num_groups, eps, silu, dropout, seed));
  });
}

}  // extern "C"
