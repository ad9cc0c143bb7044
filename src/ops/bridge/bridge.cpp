// What tch does not offer, through libtorch's own headers. Every function is extern "C", catches every
// exception (none may cross into Rust) and takes tensors as the raw pointers that tch holds.
#include <ATen/core/Tensor.h>

extern "C" {

// Makes `gradient` the buffer into which backward accumulates for the leaf `parameter`.
int admiral_set_gradient(at::Tensor* parameter, at::Tensor* gradient) {
  try {
    parameter->mutable_grad() = *gradient;
    return 0;
  } catch (...) {
    return 1;
  }
}

}  // extern "C"
