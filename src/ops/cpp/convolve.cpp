// Convolution of channels-last maps with contiguous weights, as a single autograd node on the CPU. libtorch converts
// such weights to channels-last in each forward and backward pass, and their gradient back, value by value. The
// transposition here reads memory in order and takes a tenth of the time. The convolution is libtorch's, or Winograd's
// algorithm if it is faster.
#include "bridge.h"
#include "layout.h"
#include "winograd.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

namespace admiral {
namespace {

using at::Tensor;
using torch::autograd::variable_list;

// The minimum number of values for each thread.
constexpr int64_t kGrain = 1 << 16;

// Transposes [rows, large, small] to [rows, small, large] if `small_last` is set, and the reverse otherwise. `fixed` is
// the value of `small` at compile time, or 0 if it is only known at run time.
template <typename Value, int64_t fixed>
void transpose_rows(const Value* from, Value* to, int64_t begin, int64_t end, int64_t large,
                    int64_t small_at_run_time, bool small_last) {
  const int64_t small = fixed > 0 ? fixed : small_at_run_time;
  for (int64_t row = begin; row < end; ++row) {
    const Value* const source = from + row * large * small;
    Value* const target = to + row * large * small;
    if (small_last)
      for (int64_t i = 0; i < large; ++i)
        for (int64_t k = 0; k < small; ++k) target[k * large + i] = source[i * small + k];
    else
      for (int64_t i = 0; i < large; ++i)
        for (int64_t k = 0; k < small; ++k) target[i * small + k] = source[k * large + i];
  }
}

template <typename Value>
void transpose(const Tensor& from, const Tensor& to, bool small_last) {
  const int64_t rows = to.size(0), large = to.size(1), small = to.size(2) * to.size(3);
  const auto* const source = static_cast<const Value*>(from.const_data_ptr());
  auto* const target = static_cast<Value*>(to.mutable_data_ptr());
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, large * small)),
                   [&](int64_t begin, int64_t end) {
                     const auto run = small == 9 ? transpose_rows<Value, 9> : transpose_rows<Value, 0>;
                     run(source, target, begin, end, large, small, small_last);
                   });
}

// Returns a copy of `weight`, [outputs, inputs, height, width], in the other layout `layout`.
Tensor with_layout(const Tensor& weight, at::MemoryFormat layout) {
  Tensor copy = at::empty(weight.sizes(), weight.options(), layout);
  const bool small_last = layout == at::MemoryFormat::ChannelsLast;
  if (weight.element_size() == 4)
    transpose<uint32_t>(weight, copy, small_last);
  else
    transpose<uint16_t>(weight, copy, small_last);
  return copy;
}

class Convolve : public torch::autograd::Function<Convolve> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, int64_t stride, int64_t padding) {
    context->save_for_backward({x, weight});
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    if (use_winograd(x, weight, stride, padding)) return winograd_convolve(x, winograd_transformed(weight), bias);
    return at::convolution(x, with_layout(weight, at::MemoryFormat::ChannelsLast), bias, {stride, stride},
                           {padding, padding}, {1, 1}, false, {0, 0}, 1);
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const int64_t stride = context->saved_data["stride"].toInt(), padding = context->saved_data["padding"].toInt();
    const std::array<bool, 3> wanted{context->needs_input_grad(0), context->needs_input_grad(1),
                                     context->needs_input_grad(2)};
    if (use_winograd(x, weight, stride, padding)) {
      const Tensor dy = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
      const Tensor dx = wanted[0] ? winograd_input_gradient(dy, weight) : Tensor();
      if (!wanted[1] && !wanted[2]) return {dx, Tensor(), Tensor(), Tensor(), Tensor()};
      auto [dweight, dbias] = winograd_weight_gradients(dy, x);
      return {dx, dweight, dbias, Tensor(), Tensor()};
    }
    const std::array<int64_t, 1> outputs{weight.size(0)};
    auto [dx, dweight, dbias] = at::convolution_backward(
        gradients[0], x, with_layout(weight, at::MemoryFormat::ChannelsLast), at::OptionalIntArrayRef(outputs),
        {stride, stride}, {padding, padding}, {1, 1}, false, {0, 0}, 1, wanted);
    // Contiguous, as the flat memory to which the gradient is added.
    if (wanted[1])
      dweight = dweight.is_contiguous(at::MemoryFormat::ChannelsLast)
                    ? with_layout(dweight, at::MemoryFormat::Contiguous)
                    : dweight.contiguous();
    return {dx, dweight, dbias, Tensor(), Tensor()};
  }
};

}  // namespace
}  // namespace admiral

extern "C" {

// Whether `admiral_convolve` supports the tensors and is faster than libtorch: channels-last maps and contiguous
// weights with more than one position, in float32 or a half kind.
bool admiral_can_convolve(const at::Tensor* x, const at::Tensor* weight) {
  return x->is_cpu() && weight->is_cpu() && x->dim() == 4 && weight->dim() == 4 &&
         x->scalar_type() == weight->scalar_type() &&
         (x->scalar_type() == at::kFloat || x->scalar_type() == at::kBFloat16 || x->scalar_type() == at::kHalf) &&
         weight->size(2) * weight->size(3) > 1 && weight->size(1) > 1 && weight->is_contiguous() &&
         !x->is_contiguous() && admiral::is_channels_last(*x);
}

// Whether `admiral_convolve` uses Winograd's algorithm for the tensors.
bool admiral_convolve_uses_winograd(const at::Tensor* x, const at::Tensor* weight, int64_t stride, int64_t padding) {
  return admiral_can_convolve(x, weight) && admiral::use_winograd(*x, *weight, stride, padding);
}

// The result is a new tensor that the caller owns.
int admiral_convolve(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, int64_t stride,
                     int64_t padding, at::Tensor** result) {
  return admiral::guarded(
      [&] { *result = new at::Tensor(admiral::Convolve::apply(*x, *weight, *bias, stride, padding)); });
}

// Transforms the weights for `admiral_convolve_transformed`. The result is a new tensor that the caller owns, or null if
// no convolution with these weights uses them.
int admiral_transform_weights(const at::Tensor* weight, at::Tensor** result) {
  return admiral::guarded([&] {
    *result = admiral::can_transform(*weight) ? new at::Tensor(admiral::winograd_transformed(*weight)) : nullptr;
  });
}

// The convolution with stride 1 and padding 1 by Winograd's algorithm, which `admiral_convolve_uses_winograd` has
// chosen. It is not recorded for backward. The result is a new tensor that the caller owns.
int admiral_convolve_transformed(const at::Tensor* x, const at::Tensor* transformed, const at::Tensor* bias,
                                 at::Tensor** result) {
  return admiral::guarded([&] { *result = new at::Tensor(admiral::winograd_convolve(*x, *transformed, *bias)); });
}

}  // extern "C"
