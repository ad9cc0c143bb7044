// Convolutions for inference on the CPU. Their weights are in oneDNN's own layout, converted once instead of in each
// call, and ReLU is part of the convolution instead of another pass over the map. libtorch has both as operations that
// its compiler for Python uses; they are found by name, because they are not in its C++ interface.
#include "bridge.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/List.h>

#include <optional>
#include <vector>

namespace admiral {
namespace {

using at::Tensor;

std::optional<c10::OperatorHandle> operation(const char* name) {
  return c10::Dispatcher::singleton().findSchema({name, ""});
}

std::vector<int64_t> two(const int64_t* values) { return {values[0], values[1]}; }

}  // namespace
}  // namespace admiral

extern "C" {

// Converts weight [outputs, inputs, height, width] to the layout that is fastest for maps of the size `map`, [batch,
// inputs, height, width]. The result is a new tensor that the caller owns, or null if this libtorch has no oneDNN.
int admiral_pack_convolution(const at::Tensor* weight, const int64_t* stride, const int64_t* padding,
                             const int64_t* map, at::Tensor** result) {
  return admiral::guarded([&] {
    *result = nullptr;
    const auto pack = admiral::operation("mkldnn::_reorder_convolution_weight");
    if (!pack || !admiral::operation("mkldnn::_convolution_pointwise")) return;
    const std::vector<int64_t> size(map, map + 4), dilation{1, 1};
    c10::Stack stack{*weight, admiral::two(padding), admiral::two(stride), dilation, int64_t{1},
                     c10::IValue(size)};
    pack->callBoxed(stack);
    *result = new at::Tensor(std::move(stack.at(0)).toTensor());
  });
}

// Convolves the channels-last map x with packed weights and adds `bias`. With `relu`, negative values become 0. It is
// not recorded for backward. The result is a new tensor that the caller owns.
int admiral_convolve_packed(const at::Tensor* x, const at::Tensor* packed, const at::Tensor* bias,
                            const int64_t* stride, const int64_t* padding, bool relu, at::Tensor** result) {
  return admiral::guarded([&] {
    const auto convolve = admiral::operation("mkldnn::_convolution_pointwise");
    TORCH_CHECK(convolve.has_value(), "this libtorch has no oneDNN");
    const std::vector<int64_t> dilation{1, 1};
    c10::Stack stack{*x,
                     *packed,
                     *bias,
                     admiral::two(padding),
                     admiral::two(stride),
                     dilation,
                     int64_t{1},
                     std::string(relu ? "relu" : "none"),
                     c10::List<std::optional<at::Scalar>>(),
                     c10::IValue()};
    convolve->callBoxed(stack);
    *result = new at::Tensor(std::move(stack.at(0)).toTensor());
  });
}

}  // extern "C"
