// What tch does not offer, through libtorch's own headers. Tensors come as the raw pointers that tch holds.
#include "bridge.h"

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/version.h>

namespace admiral {

struct TorchAdamW {
  double learning_rate;
  double beta1;
  double beta2;
  double epsilon;
  double weight_decay;
  double step;
};

std::string& last_error() noexcept {
  thread_local std::string message;
  return message;
}

}  // namespace admiral

extern "C" {

const char* admiral_last_error() { return admiral::last_error().c_str(); }

// The libtorch whose headers this was compiled with.
const char* admiral_torch_built_with() { return TORCH_VERSION; }

// What the libtorch that is loaded says of itself, in libtorch's own words; in storage of the calling thread.
int admiral_torch_config(const char** config) {
  return admiral::guarded([&] {
    thread_local std::string text;
    text = at::show_config();
    *config = text.c_str();
  });
}

// Makes `gradient` the buffer into which backward accumulates for the leaf `parameter`.
int admiral_set_gradient(const at::Tensor* parameter, const at::Tensor* gradient) {
  return admiral::guarded([&] {
    TORCH_CHECK(parameter->is_leaf(), "the parameter is not a leaf");
    TORCH_CHECK(parameter->sizes() == gradient->sizes() && parameter->scalar_type() == gradient->scalar_type() &&
                    parameter->device() == gradient->device(),
                "the gradient is ", gradient->toString(), gradient->sizes(), ", the parameter ",
                parameter->toString(), parameter->sizes());
    parameter->mutable_grad() = *gradient;
  });
}

// The gradients of `inputs` for the gradient `of_output` of `output`, without accumulating any: each result is a new
// tensor that the caller owns.
int admiral_gradients(const at::Tensor* output, const at::Tensor* of_output, const at::Tensor* const* inputs,
                      int64_t num_inputs, at::Tensor** results) {
  return admiral::guarded([&] {
    torch::autograd::variable_list leaves;
    for (int64_t i = 0; i < num_inputs; ++i) leaves.push_back(*inputs[i]);
    const torch::autograd::variable_list found = torch::autograd::grad({*output}, leaves, {*of_output});
    for (int64_t i = 0; i < num_inputs; ++i) results[i] = new at::Tensor(found[static_cast<size_t>(i)]);
  });
}

// libtorch's own fused AdamW, for comparison; `step` counts from 1.
int admiral_torch_fused_adamw(const at::Tensor* parameter, const at::Tensor* gradient, const at::Tensor* mean,
                              const at::Tensor* variance, const admiral::TorchAdamW* hyper) {
  return admiral::guarded([&] {
    at::_fused_adamw_({*parameter}, {*gradient}, {*mean}, {*variance}, {}, {at::scalar_tensor(hyper->step, parameter->options())},
                      hyper->learning_rate, hyper->beta1, hyper->beta2, hyper->weight_decay, hyper->epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  });
}

// Whether CUDA's float32 convolutions and matrix products may round their inputs to TF32's 10 bits of mantissa.
int admiral_allow_tf32(bool allow) {
  return admiral::guarded([&] {
    at::globalContext().setAllowTF32CuDNN(allow);
    at::globalContext().setAllowTF32CuBLAS(allow);
  });
}

// The number of the stream that libtorch computes on now, on this thread. Its handle is not to be had without CUDA's
// headers, but that of number 0 is known: null.
int admiral_current_stream(int64_t device, int64_t* id) {
  return admiral::guarded([&] {
    TORCH_CHECK(c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA), "this libtorch has no CUDA");
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    TORCH_CHECK(device >= 0 && device < guard.deviceCount(), "libtorch sees ", static_cast<int64_t>(guard.deviceCount()),
                " GPUs, so there is none of number ", device);
    *id = guard.getStream({c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)}).id();
  });
}

}  // extern "C"
