// Functions of libtorch that tch does not have. Tensors are the raw pointers inside tch's tensors.
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

// The hyperparameters of `admiral_torch_fused_adamw`. The same layout as `TorchAdamW` in bridge/libtorch.rs.
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

// Returns the version of the libtorch headers that this was compiled with.
const char* admiral_torch_built_with() { return TORCH_VERSION; }

// Writes the configuration text of the loaded libtorch. The text is in storage of the calling thread.
int admiral_torch_config(const char** config) {
  return admiral::guarded([&] {
    thread_local std::string text;
    text = at::show_config();
    *config = text.c_str();
  });
}

// Sets `gradient` as the buffer into which backward accumulates the gradient of the leaf `parameter`.
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

// Computes the gradients of `inputs` from the gradient `output_gradient` of `output`, without accumulation into leaves.
// Each result is a new tensor that the caller owns.
int admiral_gradients(const at::Tensor* output, const at::Tensor* output_gradient, const at::Tensor* const* inputs,
                      int64_t num_inputs, at::Tensor** results) {
  return admiral::guarded([&] {
    torch::autograd::variable_list leaves;
    for (int64_t i = 0; i < num_inputs; ++i) leaves.push_back(*inputs[i]);
    const torch::autograd::variable_list gradients = torch::autograd::grad({*output}, leaves, {*output_gradient});
    for (int64_t i = 0; i < num_inputs; ++i) results[i] = new at::Tensor(gradients[static_cast<size_t>(i)]);
  });
}

// Runs libtorch's fused AdamW, for comparison. `step` counts from 1.
int admiral_torch_fused_adamw(const at::Tensor* parameter, const at::Tensor* gradient, const at::Tensor* mean,
                              const at::Tensor* variance, const admiral::TorchAdamW* hyper) {
  return admiral::guarded([&] {
    at::_fused_adamw_({*parameter}, {*gradient}, {*mean}, {*variance}, {},
                      {at::scalar_tensor(hyper->step, parameter->options())}, hyper->learning_rate, hyper->beta1,
                      hyper->beta2, hyper->weight_decay, hyper->epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  });
}

// Sets whether float32 convolutions and matrix products on CUDA may round their inputs to the 10-bit mantissa of TF32.
int admiral_allow_tf32(bool allow) {
  return admiral::guarded([&] {
    at::globalContext().setAllowTF32CuDNN(allow);
    at::globalContext().setAllowTF32CuBLAS(allow);
  });
}

// Writes the ID of the current stream of this thread on a GPU. The handle of a stream is not available without CUDA's
// headers, but ID 0 is the default stream, whose handle is null.
int admiral_current_stream(int64_t device, int64_t* id) {
  return admiral::guarded([&] {
    TORCH_CHECK(c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA), "this libtorch has no CUDA");
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    TORCH_CHECK(device >= 0 && device < guard.deviceCount(), "libtorch sees ",
                static_cast<int64_t>(guard.deviceCount()), " GPUs, so there is no GPU ", device);
    *id = guard.getStream({c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)}).id();
  });
}

}  // extern "C"
