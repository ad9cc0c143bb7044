// Concatenation along the channels with two consumers, as a single autograd node. Its backward receives the gradients
// of both consumers and adds them directly into contiguous or channels-last gradients of the inputs. With libtorch's
// concatenation, autograd adds the gradients first and returns strided slices of the sum, which convolutions and
// upsampling must copy.
#include "bridge.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

namespace admiral {
namespace {

using at::Tensor;
using torch::autograd::variable_list;

class ConcatenateTwice : public torch::autograd::Function<ConcatenateTwice> {
 public:
  static variable_list forward(torch::autograd::AutogradContext* context, const Tensor& first, const Tensor& second) {
    // An unused output has an undefined gradient instead of zeros.
    context->set_materialize_grads(false);
    context->saved_data["first"] = first.size(1);
    context->saved_data["second"] = second.size(1);
    context->saved_data["channels_last"] = first.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
    const Tensor joined = at::cat({first, second}, 1);
    return {joined, joined.detach()};
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    const int64_t first = context->saved_data["first"].toInt(), second = context->saved_data["second"].toInt();
    const auto layout = context->saved_data["channels_last"].toBool() ? at::MemoryFormat::ChannelsLast
                                                                      : at::MemoryFormat::Contiguous;
    std::vector<Tensor> defined;
    for (const Tensor& gradient : gradients)
      if (gradient.defined()) defined.push_back(gradient);
    const auto part = [&](int64_t start, int64_t length) {
      if (defined.empty()) return Tensor();
      const Tensor slice = defined[0].narrow(1, start, length);
      Tensor sum = at::empty(slice.sizes(), slice.options(), layout);
      if (defined.size() == 1) return sum.copy_(slice);
      return at::add_out(sum, slice, defined[1].narrow(1, start, length));
    };
    return {part(0, first), part(first, second)};
  }
};

}  // namespace
}  // namespace admiral

// Writes two tensors to `results`. The caller owns them, and they share their memory.
extern "C" int admiral_concatenate_twice(const at::Tensor* first, const at::Tensor* second, at::Tensor** results) {
  return admiral::guarded([&] {
    TORCH_CHECK(first->dim() == 4 && second->dim() == 4, "tensors of ", first->dim(), " and ", second->dim(),
                " dimensions, not 4");
    const torch::autograd::variable_list outputs = admiral::ConcatenateTwice::apply(*first, *second);
    for (size_t i = 0; i < 2; ++i) results[i] = new at::Tensor(outputs[i]);
  });
}
