// Group normalization with scale, shift and SiLU as one node of libtorch's graph, on the CPU in float32.
// Backward needs only the input and the groups' statistics: no other activation is kept.
#include "bridge.h"
#include "kernels.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <vector>

namespace admiral {
namespace {

using at::Tensor;
using torch::autograd::variable_list;

// Whether `x` lies as [batch, positions, channels].
bool lies_channels_last(const Tensor& x) {
  int64_t expected = x.size(1);
  for (int64_t d = x.dim() - 1; d >= 2; --d) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return (x.size(1) == 1 || x.stride(1) == 1) && (x.size(0) == 1 || x.stride(0) == expected);
}

// [batch, channels] without gaps between channels, or undefined.
Tensor coefficients(const std::optional<Tensor>& t, const Tensor& x) {
  return t ? t->reshape({x.size(0), x.size(1)}).contiguous() : Tensor();
}

GroupNorm describe(const Tensor& x, bool channels_last, int64_t num_groups, double eps, bool silu,
                   const Tensor& weight, const Tensor& bias) {
  GroupNorm norm{};
  norm.channels = x.size(1);
  norm.spatial = x.numel() / (x.size(0) * x.size(1));
  norm.num_groups = num_groups;
  norm.channels_last = channels_last;
  norm.silu = silu;
  norm.eps = static_cast<float>(eps);
  norm.weight = weight.const_data_ptr<float>();
  norm.bias = bias.const_data_ptr<float>();
  return norm;
}

// Calls body(norm, sample, scratch) for each sample, on libtorch's threads.
template <typename Body>
void for_samples(const GroupNorm& norm, int64_t batch, const Tensor& scale, const Tensor& shift, Body body) {
  const Kernels& k = kernels();
  // libtorch's own grain is 32768 values of an elementwise operation.
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, norm.channels * norm.spatial));
  at::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch(static_cast<size_t>(k.group_norm_scratch(norm) / 2 + 1));
    GroupNorm of_sample = norm;
    for (int64_t n = begin; n < end; ++n) {
      if (scale.defined()) {
        of_sample.scale = scale.const_data_ptr<float>() + n * norm.channels;
        of_sample.shift = shift.const_data_ptr<float>() + n * norm.channels;
      }
      body(of_sample, n, reinterpret_cast<float*>(scratch.data()));
    }
  });
}

class GroupNormSilu : public torch::autograd::Function<GroupNormSilu> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_any, const Tensor& weight_any,
                        const Tensor& bias_any, const std::optional<Tensor>& scale_any, const std::optional<Tensor>& shift_any,
                        int64_t num_groups, double eps, bool silu) {
    const bool channels_last = !x_any.is_contiguous() && lies_channels_last(x_any);
    const Tensor x = channels_last ? x_any : x_any.contiguous();
    const Tensor weight = weight_any.contiguous(), bias = bias_any.contiguous();
    const Tensor scale = coefficients(scale_any, x), shift = coefficients(shift_any, x);
    const int64_t batch = x.size(0);
    Tensor y = at::empty_strided(x.sizes(), x.strides(), x.options());
    Tensor mean = at::empty({batch, num_groups}, x.options().memory_format(at::MemoryFormat::Contiguous));
    Tensor rstd = at::empty_like(mean);
    if (x.numel() != 0) {
      const GroupNorm norm = describe(x, channels_last, num_groups, eps, silu, weight, bias);
      const int64_t size = norm.channels * norm.spatial;
      const float* const from = x.const_data_ptr<float>();
      float* const to = y.mutable_data_ptr<float>();
      float* const means = mean.mutable_data_ptr<float>();
      float* const rstds = rstd.mutable_data_ptr<float>();
      for_samples(norm, batch, scale, shift, [&](const GroupNorm& of_sample, int64_t n, float* scratch) {
        kernels().group_norm_forward(of_sample, from + n * size, to + n * size, means + n * num_groups,
                                     rstds + n * num_groups, scratch);
      });
    }
    context->save_for_backward({x, weight, bias, scale, shift, mean, rstd});
    context->saved_data["channels_last"] = channels_last;
    context->saved_data["num_groups"] = num_groups;
    context->saved_data["eps"] = eps;
    context->saved_data["silu"] = silu;
    if (scale.defined()) {
      context->saved_data["scale_sizes"] = scale_any->sizes();
      context->saved_data["shift_sizes"] = shift_any->sizes();
    }
    return y;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &scale = saved[3], &shift = saved[4],
                 &mean = saved[5], &rstd = saved[6];
    const bool channels_last = context->saved_data["channels_last"].toBool();
    const int64_t num_groups = context->saved_data["num_groups"].toInt();
    const bool silu = context->saved_data["silu"].toBool();
    const int64_t batch = x.size(0), channels = x.size(1);

    Tensor dy = gradients[0];
    if (dy.strides() != x.strides()) dy = at::empty_strided(x.sizes(), x.strides(), x.options()).copy_(dy);
    Tensor dx = at::empty_strided(x.sizes(), x.strides(), x.options());
    Tensor sum = at::zeros({batch, channels}, mean.options());
    Tensor sum_normalized = at::zeros({batch, channels}, mean.options());
    if (x.numel() != 0) {
      const GroupNorm norm =
          describe(x, channels_last, num_groups, context->saved_data["eps"].toDouble(), silu, weight, bias);
      const int64_t size = norm.channels * norm.spatial;
      const float* const from = x.const_data_ptr<float>();
      const float* const dy_data = dy.const_data_ptr<float>();
      const float* const means = mean.const_data_ptr<float>();
      const float* const rstds = rstd.const_data_ptr<float>();
      float* const to = dx.mutable_data_ptr<float>();
      float* const sums = sum.mutable_data_ptr<float>();
      float* const sums_normalized = sum_normalized.mutable_data_ptr<float>();
      for_samples(norm, batch, scale, shift, [&](const GroupNorm& of_sample, int64_t n, float* scratch) {
        kernels().group_norm_backward(of_sample, from + n * size, dy_data + n * size, means + n * num_groups,
                                      rstds + n * num_groups, to + n * size,
                                      {sums + n * channels, sums_normalized + n * channels}, scratch);
      });
    }
    // [batch, channels] from here on: small.
    Tensor dscale, dshift, dweight, dbias;
    if (scale.defined()) {
      dscale = (sum_normalized * weight + sum * bias).reshape(context->saved_data["scale_sizes"].toIntVector());
      dshift = sum.reshape(context->saved_data["shift_sizes"].toIntVector());
      const Tensor multiplier = scale + 1;
      dweight = (sum_normalized * multiplier).sum(0);
      dbias = (sum * multiplier).sum(0);
    } else {
      dweight = sum_normalized.sum(0);
      dbias = sum.sum(0);
    }
    return {dx, dweight, dbias, dscale, dshift, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace
}  // namespace admiral

extern "C" {

// `scale` and `shift` are both null or neither. The result is a new tensor that the caller owns.
int admiral_group_norm_silu(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias,
                            const at::Tensor* scale, const at::Tensor* shift, int64_t num_groups, double eps,
                            bool silu, at::Tensor** result) {
  return admiral::guarded([&] {
    TORCH_CHECK(x->dim() >= 2 && num_groups > 0 && x->size(1) % num_groups == 0, "x has the shape ", x->sizes(),
                ", which ", num_groups, " groups do not divide");
    TORCH_CHECK(weight->numel() == x->size(1) && bias->numel() == x->size(1), "weight and bias have ",
                weight->numel(), " and ", bias->numel(), " values for ", x->size(1), " channels");
    const auto given = [](const at::Tensor* t) { return t ? std::optional<at::Tensor>(*t) : std::nullopt; };
    *result = new at::Tensor(
        admiral::GroupNormSilu::apply(*x, *weight, *bias, given(scale), given(shift), num_groups, eps, silu));
  });
}

}  // extern "C"
