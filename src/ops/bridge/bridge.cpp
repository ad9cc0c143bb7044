// What tch does not offer, through libtorch's own headers. Tensors come as the raw pointers that tch holds.
#include "bridge.h"

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <torch/version.h>

namespace admiral {

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

// Whether CUDA's float32 convolutions and matrix products may round their inputs to TF32's 10 bits of mantissa.
int admiral_allow_tf32(bool allow) {
  return admiral::guarded([&] {
    at::globalContext().setAllowTF32CuDNN(allow);
    at::globalContext().setAllowTF32CuBLAS(allow);
  });
}

}  // extern "C"
