// Group normalization with scale, shift, SiLU and dropout as one node of libtorch's graph, on the CPU, of float32 and
// half kinds with float32 inside. Backward needs only the input and the groups' statistics: no other activation is
// kept, and the dropout mask is made again.
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

// What does not change from sample to sample.
struct Plan {
  GroupNorm norm;
  int64_t num_groups;
  double eps;
  int64_t batch;
  uint64_t seed;
  // Pieces that a sample is cut into, a function of its shape and layout only.
  int64_t num_pieces;
  // Whether a piece holds whole groups, so that one thread does all of it while it is in the cache.
  bool whole_groups;
  std::optional<double> dropout;
};

// Values of a piece of a channels-last sample: what two passes find in the second-level cache.
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

// Spreads the bits of a number over 64 (the finaliser of SplitMix64).
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

Plan plan_of(const Tensor& x, bool channels_last, int64_t num_groups, double eps, bool silu,
             std::optional<double> dropout, uint64_t seed) {
  Plan plan{};
  plan.norm.channels = x.size(1);
  plan.batch = x.size(0);
  plan.norm.spatial = x.numel() / std::max<int64_t>(1, plan.batch * plan.norm.channels);
  plan.norm.channels_last = channels_last;
  plan.norm.silu = silu;
  plan.norm.kind = kind_of(x);
  plan.num_groups = num_groups;
  plan.eps = eps;
  plan.dropout = dropout;
  plan.seed = seed;
  const int64_t values = plan.norm.channels * plan.norm.spatial;
  if (!channels_last)
    plan.num_pieces = num_groups;
  else
    plan.num_pieces = std::clamp<int64_t>(values / kPieceValues, 1, std::max<int64_t>(1, plan.norm.spatial));
  plan.whole_groups = !channels_last || plan.num_pieces == 1;
  return plan;
}

GroupNorm sample_of(const Plan& plan, int64_t sample) {
  GroupNorm norm = plan.norm;
  if (plan.dropout) norm.mask = mask_of(*plan.dropout, plan.seed, sample);
  return norm;
}

Piece piece_at(const Plan& plan, int64_t index) {
  const GroupNorm& norm = plan.norm;
  if (!norm.channels_last) {
    const int64_t width = norm.channels / plan.num_groups;
    return {index * width, width, 0, norm.spatial};
  }
  const int64_t begin = index * norm.spatial / plan.num_pieces, end = (index + 1) * norm.spatial / plan.num_pieces;
  return {0, norm.channels, begin, end - begin};
}

// Memory of one thread for one piece after another.
struct Scratch {
  float* arrays;
  float* dz;  // [values of the piece], or null
};

// Where backward keeps dz between its two passes over a piece. float32 has dx's memory for it. A half kind would round
// it there, and keeps what stays in the second-level cache in a buffer; of more it computes dz again, which takes no
// longer than memory does.
bool buffers_dz(const Plan& plan) { return plan.norm.kind != Kind::kFloat && plan.whole_groups; }

// Calls body(sample, piece's index, scratch) for each piece, on libtorch's threads.
template <typename Body>
void for_pieces(const Plan& plan, bool with_dz, Body body) {
  const Kernels& k = kernels();
  const int64_t values = plan.norm.channels * plan.norm.spatial / plan.num_pieces;
  // A quarter of libtorch's own grain of 32768 values of an elementwise operation: this is more work.
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, values));
  at::parallel_for(0, plan.batch * plan.num_pieces, grain, [&](int64_t begin, int64_t end) {
    const int64_t arrays = k.group_norm_scratch(plan.norm);
    const std::unique_ptr<float[]> memory(new float[static_cast<size_t>(arrays + (with_dz ? values : 0))]);
    const Scratch scratch{memory.get(), with_dz ? memory.get() + arrays : nullptr};
    for (int64_t i = begin; i < end; ++i) body(i / plan.num_pieces, i % plan.num_pieces, scratch);
  });
}

// Sums of each channel of each piece, in float64.
struct Sums {
  int64_t channels;  // of a piece
  int64_t num_pieces;
  std::vector<double> first, second;

  explicit Sums(const Plan& plan)
      : channels(piece_at(plan, 0).num_channels),
        num_pieces(plan.num_pieces),
        first(static_cast<size_t>(plan.batch * plan.num_pieces * channels)),
        second(first.size()) {}

  int64_t place(int64_t sample, int64_t piece) const { return (sample * num_pieces + piece) * channels; }
};

// The pieces that hold a group, and the group's channels in the first of them.
struct GroupPlace {
  int64_t first_piece, num_pieces, channel;
};

GroupPlace place_of(const Plan& plan, int64_t group) {
  if (!plan.norm.channels_last) return {group, 1, 0};
  return {0, plan.num_pieces, group * (plan.norm.channels / plan.num_groups)};
}

// The groups that a piece holds, where it holds whole ones.
std::pair<int64_t, int64_t> groups_of(const Plan& plan, int64_t piece) {
  if (!plan.norm.channels_last) return {piece, piece + 1};
  return {0, plan.num_groups};
}

// The coefficients and statistics of a sample's channels, float32.
struct Sample {
  const float *weight, *bias, *scale, *shift;  // [channels]; the last two may be null
  float *mean, *rstd;                          // [num_groups]
  float *factor, *offset, *center, *gain, *slope, *level;  // [channels]

  Affine affine() const { return {factor, offset, center}; }
  Slopes slopes() const { return {gain, slope, level}; }
};

// Small float32 tensors and where each sample's part of them begins.
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

// Mean and 1 / standard deviation of a group from the moments of its channels (Chan et al., 1983).
void finish_group(const Plan& plan, const Sums& moments, int64_t sample, int64_t group, const Sample& s) {
  const int64_t width = plan.norm.channels / plan.num_groups;
  const GroupPlace place = place_of(plan, group);
  const double count = static_cast<double>(width * plan.norm.spatial);
  double sum = 0;
  for (int64_t p = place.first_piece; p < place.first_piece + place.num_pieces; ++p) {
    const double* const means = moments.first.data() + moments.place(sample, p) + place.channel;
    for (int64_t c = 0; c < width; ++c) sum += means[c] * static_cast<double>(piece_at(plan, p).num_positions);
  }
  const double mean = sum / count;
  double squares = 0;
  for (int64_t p = place.first_piece; p < place.first_piece + place.num_pieces; ++p) {
    const int64_t at = moments.place(sample, p) + place.channel;
    for (int64_t c = 0; c < width; ++c) {
      const double difference = moments.first[static_cast<size_t>(at + c)] - mean;
      squares += moments.second[static_cast<size_t>(at + c)] +
                 static_cast<double>(piece_at(plan, p).num_positions) * difference * difference;
    }
  }
  s.mean[group] = static_cast<float>(mean);
  s.rstd[group] = static_cast<float>(1 / std::sqrt(squares / count + plan.eps));
}

// The coefficients with which z = x * factor + offset, of one group's channels.
void set_affine(const Plan& plan, int64_t group, const Sample& s) {
  const int64_t width = plan.norm.channels / plan.num_groups;
  for (int64_t c = group * width; c < (group + 1) * width; ++c) {
    const float gain = s.rstd[group] * s.weight[c];
    const float rest = s.bias[c] - s.mean[group] * gain;
    s.factor[c] = s.scale ? gain * (1 + s.scale[c]) : gain;
    s.offset[c] = s.scale ? rest * (1 + s.scale[c]) + s.shift[c] : rest;
    s.center[c] = s.mean[group];
  }
}

// dx = rstd * (g - mean(g) - normalized * mean(g * normalized)), with g = dz * (1 + scale) * weight, as dz * gain +
// (x - mean) * slope + level; and the sums over positions of dz and of dz * normalized, for the other gradients.
void set_slopes(const Plan& plan, const Sums& sums, int64_t sample, int64_t group, const Sample& s, float* dz,
                float* dz_normalized) {
  const int64_t width = plan.norm.channels / plan.num_groups;
  const GroupPlace place = place_of(plan, group);
  const double count = static_cast<double>(width * plan.norm.spatial);
  const double r = s.rstd[group];
  double sum_g = 0, sum_g_normalized = 0;
  for (int64_t c = 0; c < width; ++c) {
    double first = 0, second = 0;
    for (int64_t p = place.first_piece; p < place.first_piece + place.num_pieces; ++p) {
      const size_t at = static_cast<size_t>(sums.place(sample, p) + place.channel + c);
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

void forward_on(const Plan& plan, Coefficients& coefficients, const char* x, char* y) {
  const Kernels& k = kernels();
  const int64_t bytes = plan.norm.channels * plan.norm.spatial * bytes_of(plan.norm.kind);
  Sums moments(plan);
  const auto measure = [&](int64_t sample, int64_t piece, const Scratch& scratch) {
    const size_t at = static_cast<size_t>(moments.place(sample, piece));
    k.group_norm_moments(plan.norm, piece_at(plan, piece), x + sample * bytes, &moments.first[at], &moments.second[at],
                         scratch.arrays);
  };
  const auto settle = [&](int64_t sample, int64_t group) {
    const Sample s = coefficients.of(sample);
    finish_group(plan, moments, sample, group, s);
    set_affine(plan, group, s);
  };
  const auto write = [&](int64_t sample, int64_t piece, const Scratch& scratch) {
    k.group_norm_forward(sample_of(plan, sample), piece_at(plan, piece), coefficients.of(sample).affine(),
                         x + sample * bytes, y + sample * bytes, scratch.arrays);
  };
  if (plan.whole_groups) {
    for_pieces(plan, false, [&](int64_t sample, int64_t piece, const Scratch& scratch) {
      measure(sample, piece, scratch);
      const auto [begin, end] = groups_of(plan, piece);
      for (int64_t group = begin; group < end; ++group) settle(sample, group);
      write(sample, piece, scratch);
    });
    return;
  }
  for_pieces(plan, false, measure);
  at::parallel_for(0, plan.batch * plan.num_groups, plan.num_groups, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) settle(i / plan.num_groups, i % plan.num_groups);
  });
  for_pieces(plan, false, write);
}

// `dz` and `dz_normalized` are [batch, channels].
void backward_on(const Plan& plan, Coefficients& coefficients, const char* x, const char* dy, char* dx, float* dz,
                 float* dz_normalized) {
  const Kernels& k = kernels();
  const int64_t bytes = plan.norm.channels * plan.norm.spatial * bytes_of(plan.norm.kind);
  Sums sums(plan);
  for (int64_t sample = 0; sample < plan.batch; ++sample)
    for (int64_t group = 0; group < plan.num_groups; ++group) set_affine(plan, group, coefficients.of(sample));
  const auto dz_at = [&](int64_t sample, int64_t piece, const Scratch& scratch) -> float* {
    if (plan.norm.kind != Kind::kFloat) return scratch.dz;
    const Piece part = piece_at(plan, piece);
    const int64_t start =
        plan.norm.channels_last ? part.position * plan.norm.channels : part.channel * plan.norm.spatial;
    return reinterpret_cast<float*>(dx + sample * bytes) + start;
  };
  const auto add_up = [&](int64_t sample, int64_t piece, const Scratch& scratch) {
    const size_t at = static_cast<size_t>(sums.place(sample, piece));
    k.group_norm_backward_sums(sample_of(plan, sample), piece_at(plan, piece), coefficients.of(sample).affine(),
                               x + sample * bytes, dy + sample * bytes, dz_at(sample, piece, scratch), &sums.first[at],
                               &sums.second[at], scratch.arrays);
  };
  const auto settle = [&](int64_t sample, int64_t group) {
    set_slopes(plan, sums, sample, group, coefficients.of(sample), dz + sample * plan.norm.channels,
               dz_normalized + sample * plan.norm.channels);
  };
  const auto write = [&](int64_t sample, int64_t piece, const Scratch& scratch) {
    const Sample s = coefficients.of(sample);
    k.group_norm_backward(sample_of(plan, sample), piece_at(plan, piece), s.affine(), s.slopes(), x + sample * bytes,
                          dy + sample * bytes, dz_at(sample, piece, scratch), dx + sample * bytes, scratch.arrays);
  };
  if (plan.whole_groups) {
    for_pieces(plan, buffers_dz(plan), [&](int64_t sample, int64_t piece, const Scratch& scratch) {
      add_up(sample, piece, scratch);
      const auto [begin, end] = groups_of(plan, piece);
      for (int64_t group = begin; group < end; ++group) settle(sample, group);
      write(sample, piece, scratch);
    });
    return;
  }
  for_pieces(plan, false, add_up);
  at::parallel_for(0, plan.batch * plan.num_groups, plan.num_groups, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) settle(i / plan.num_groups, i % plan.num_groups);
  });
  for_pieces(plan, false, write);
}

// [batch, channels] in float32 without gaps, or undefined.
Tensor small(const std::optional<Tensor>& t, const Tensor& x) {
  return t ? t->reshape({x.size(0), x.size(1)}).to(at::kFloat).contiguous() : Tensor();
}

class GroupNormSilu : public torch::autograd::Function<GroupNormSilu> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_any, const Tensor& weight_any,
                        const Tensor& bias_any, const std::optional<Tensor>& scale_any,
                        const std::optional<Tensor>& shift_any, int64_t num_groups, double eps, bool silu,
                        double dropout, int64_t seed) {
    const bool channels_last = !x_any.is_contiguous() && lies_channels_last(x_any);
    const Tensor x = channels_last ? x_any : x_any.contiguous();
    const Plan plan = plan_of(x, channels_last, num_groups, eps, silu, given(dropout), static_cast<uint64_t>(seed));
    Coefficients coefficients = gather(plan, weight_any.to(at::kFloat).contiguous(),
                                       bias_any.to(at::kFloat).contiguous(), small(scale_any, x), small(shift_any, x));
    Tensor y = at::empty_strided(x.sizes(), x.strides(), x.options());
    coefficients.mean = at::empty({plan.batch, num_groups}, coefficients.weight.options());
    coefficients.rstd = at::empty_like(coefficients.mean);
    if (x.numel() != 0)
      forward_on(plan, coefficients, static_cast<const char*>(x.const_data_ptr()),
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
    const Plan plan = plan_of(x, context->saved_data["channels_last"].toBool(),
                              context->saved_data["num_groups"].toInt(), context->saved_data["eps"].toDouble(),
                              context->saved_data["silu"].toBool(), given(context->saved_data["dropout"].toDouble()),
                              static_cast<uint64_t>(context->saved_data["seed"].toInt()));
    const auto optional = [](const Tensor& t) { return t.defined() ? std::optional<Tensor>(t) : std::nullopt; };
    Coefficients coefficients = gather(plan, weight.to(at::kFloat).contiguous(), bias.to(at::kFloat).contiguous(),
                                       small(optional(scale), x), small(optional(shift), x));
    coefficients.mean = saved[5];
    coefficients.rstd = saved[6];

    Tensor dy = gradients[0];
    if (dy.strides() != x.strides()) dy = at::empty_strided(x.sizes(), x.strides(), x.options()).copy_(dy);
    Tensor dx = at::empty_strided(x.sizes(), x.strides(), x.options());
    Tensor sum = at::empty({plan.batch, plan.norm.channels}, coefficients.mean.options());
    Tensor sum_normalized = at::empty_like(sum);
    if (x.numel() != 0) {
      backward_on(plan, coefficients, static_cast<const char*>(x.const_data_ptr()),
                  static_cast<const char*>(dy.const_data_ptr()), static_cast<char*>(dx.mutable_data_ptr()),
                  sum.mutable_data_ptr<float>(), sum_normalized.mutable_data_ptr<float>());
    } else {
      sum.zero_();
      sum_normalized.zero_();
    }
    // [batch, channels] from here on: small.
    Tensor dscale, dshift, dweight, dbias;
    if (scale.defined()) {
      const Tensor of_scale = sum_normalized * coefficients.weight + sum * coefficients.bias;
      dscale = of_scale.reshape(scale.sizes()).to(scale.scalar_type());
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
  static std::optional<double> given(double dropout) {
    return dropout > 0 ? std::optional<double>(dropout) : std::nullopt;
  }

  static Coefficients gather(const Plan& plan, Tensor weight, Tensor bias, Tensor scale, Tensor shift) {
    Coefficients coefficients;
    coefficients.weight = std::move(weight);
    coefficients.bias = std::move(bias);
    coefficients.scale = std::move(scale);
    coefficients.shift = std::move(shift);
    coefficients.channels = plan.norm.channels;
    coefficients.num_groups = plan.num_groups;
    coefficients.space.resize(static_cast<size_t>(plan.batch * 6 * plan.norm.channels));
    return coefficients;
  }
};

}  // namespace
}  // namespace admiral

extern "C" {

// `scale` and `shift` are both null or neither; `dropout` is a probability below 1, 0 for none. The result is a new
// tensor that the caller owns.
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
    const auto given = [](const at::Tensor* t) { return t ? std::optional<at::Tensor>(*t) : std::nullopt; };
    *result = new at::Tensor(admiral::GroupNormSilu::apply(*x, *weight, *bias, given(scale), given(shift), num_groups,
                                                           eps, silu, dropout, seed));
  });
}

}  // extern "C"
