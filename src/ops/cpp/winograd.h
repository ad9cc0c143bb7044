// 3x3 convolutions of channels-last float32 maps on the CPU by Winograd's algorithm: see kernels_winograd.inl.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace admiral {

// Whether the functions below take these, with something to gain: `x` lies channels-last and `weight` contiguous, both
// float32 and on the CPU.
bool winograd_suits(const at::Tensor& x, const at::Tensor& weight, int64_t stride, int64_t padding);

// The convolution of x [batch, inputs, height, width] with weight [outputs, inputs, 3, 3], plus bias [outputs].
at::Tensor winograd_convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// Its gradient with respect to x, of dy [batch, outputs, height, width] that lies channels-last.
at::Tensor winograd_input_gradient(const at::Tensor& dy, const at::Tensor& weight);

// Those with respect to the weight, which lies contiguous, and to the bias.
std::tuple<at::Tensor, at::Tensor> winograd_weight_gradients(const at::Tensor& dy, const at::Tensor& x);

}  // namespace admiral
