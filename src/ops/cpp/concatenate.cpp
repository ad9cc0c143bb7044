// A concatenation along the channels that two branches read: one node of libtorch's graph that is given both branches'
// gradients and adds them into dense gradients of its parts. libtorch's own adds them over the whole first and then
// hands out strided parts of it, which convolutions and upsamplings have to copy.
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
    // A branch that nobody took gives no gradient, not one of zeros.
    context->set_materialize_grads(false);
    context->saved_data["first"] = first.size(1);
    context->saved_data["second"] = second.size(1);
    context->saved_data["channels_last"] = first.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
    const Tensor whole = at::cat({first, second}, 1);
    return {whole, whole.detach()};
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    const int64_t first = context->saved_data["first"].toInt(), second = context->saved_data["second"].toInt();
    const auto layout = context->saved_data["channels_last"].toBool() ? at::MemoryFormat::ChannelsLast
                                                                      : at::MemoryFormat::Contiguous;
    std::vector<Tensor> given;
    for (const Tensor& gradient : gradients)
      if (gradient.defined()) given.push_back(gradient);
    const auto part = [&](int64_t start, int64_t length) {
      if (given.empty()) return Tensor();
      const Tensor of_one = given[0].narrow(1, start, length);
      Tensor sum = at::empty(of_one.sizes(), of_one.options(), layout);
      if (given.size() == 1) return sum.copy_(of_one);
      return at::add_out(sum, of_one, given[1].narrow(1, start, length));
    };
    return {part(0, first), part(first, second)};
  }
};

}  // namespace
}  // namespace admiral

// `results` has room for two, which the caller owns and which share their values.
extern "C" int admiral_concatenate_twice(const at::Tensor* first, const at::Tensor* second, at::Tensor** results) {
  return admiral::guarded([&] {
    TORCH_CHECK(first->dim() == 4 && second->dim() == 4, "tensors of ", first->dim(), " and ", second->dim(),
                " dimensions, not 4");
    const torch::autograd::variable_list both = admiral::ConcatenateTwice::apply(*first, *second);
    for (size_t i = 0; i < 2; ++i) results[i] = new at::Tensor(both[i]);
  });
}
