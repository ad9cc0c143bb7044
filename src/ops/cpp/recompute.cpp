// An autograd node that saves only its inputs and runs its body again in backward.
#include "bridge.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

namespace admiral {
namespace {

using at::Tensor;
using torch::autograd::variable_list;

// Takes ownership of the tensors. Returns a tensor that the caller owns, or null with a message in `failure`, which has
// `capacity` bytes.
using BodyCall = Tensor* (*)(void* context, Tensor* x, Tensor* embedding, char* failure, int64_t capacity);
using BodyDrop = void (*)(void* context);

constexpr int64_t kMessageBytes = 512;

// The function to run. Owns `context`.
class Body : public torch::CustomClassHolder {
 public:
  Body(void* context, BodyCall call, BodyDrop drop) : context_(context), call_(call), drop_(drop) {}
  ~Body() override { drop_(context_); }

  Tensor run(const Tensor& x, const Tensor& embedding) const {
    char failure[kMessageBytes] = "";
    const std::unique_ptr<Tensor> y(call_(context_, new Tensor(x), new Tensor(embedding), failure, kMessageBytes));
    TORCH_CHECK(y, failure);
    return *y;
  }

 private:
  void* context_;
  BodyCall call_;
  BodyDrop drop_;
};

class Recompute : public torch::autograd::Function<Recompute> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& embedding,
                        c10::intrusive_ptr<Body> body) {
    context->save_for_backward({x, embedding});
    context->saved_data["body"] = c10::IValue::make_capsule(body);
    return body->run(x, embedding);
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const c10::intrusive_ptr<torch::CustomClassHolder> capsule = context->saved_data["body"].toCapsule();
    const auto leaf = [](const Tensor& input) { return input.detach().requires_grad_(input.requires_grad()); };
    const Tensor x = leaf(saved[0]), embedding = leaf(saved[1]);
    Tensor y;
    {
      const at::AutoGradMode with_graph(true);
      y = static_cast<const Body&>(*capsule).run(x, embedding);
    }
    // Gradients of parameters accumulate here. Gradients of the inputs are returned to autograd.
    torch::autograd::backward({y}, {gradients[0]});
    return {x.grad(), embedding.grad(), Tensor()};
  }
};

}  // namespace
}  // namespace admiral

// Takes ownership of `context`, even on failure.
extern "C" int admiral_recompute(const at::Tensor* x, const at::Tensor* embedding, void* context,
                                 at::Tensor* (*call)(void*, at::Tensor*, at::Tensor*, char*, int64_t),
                                 void (*drop)(void*), at::Tensor** result) {
  return admiral::guarded([&] {
    const auto body = c10::make_intrusive<admiral::Body>(context, call, drop);
    *result = new at::Tensor(admiral::Recompute::apply(*x, *embedding, body));
  });
}
