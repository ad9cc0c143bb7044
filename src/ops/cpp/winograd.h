// Winograd's algorithm for 3x3 convolutions of channels-last float32 maps on the CPU: see kernels_winograd.inl.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace admiral {

// Whether the functions below support the tensors and are faster than libtorch: `x` is channels-last, `weight` is
// contiguous, and both are float32 and on the CPU.
bool use_winograd(const at::Tensor& x, const at::Tensor& weight, int64_t stride, int64_t padding);

// Whether `winograd_transformed` supports the weights.
bool can_transform(const at::Tensor& weight);

// Returns the transform of weight [outputs, inputs, 3, 3] that `winograd_convolve` uses.
at::Tensor winograd_transformed(const at::Tensor& weight);

// Returns the convolution of x [batch, inputs, height, width] with the `transformed` weights of [outputs, inputs, 3, 3],
// plus bias [outputs].
at::Tensor winograd_convolve(const at::Tensor& x, const at::Tensor& transformed, const at::Tensor& bias);

// Returns the gradient of x from the channels-last dy [batch, outputs, height, width].
at::Tensor winograd_input_gradient(const at::Tensor& dy, const at::Tensor& weight);

// Returns the gradients of the weight, contiguous, and of the bias.
std::tuple<at::Tensor, at::Tensor> winograd_weight_gradients(const at::Tensor& dy, const at::Tensor& x);

}  // namespace admiral
