// Callbacks when a backward pass has completed the gradient of a leaf, or computed that of any tensor.
#include "bridge.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>

namespace admiral {
namespace {

using Callback = void (*)(void*);

// Owns `context` as long as the leaf exists. `call` runs on an autograd thread and must not throw.
class GradientHook : public torch::autograd::PostAccumulateGradHook {
 public:
  GradientHook(void* context, Callback call, Callback drop) : context_(context), call_(call), drop_(drop) {}
  ~GradientHook() override { drop_(context_); }
  void operator()(const torch::autograd::Variable&) override { call_(context_); }

 private:
  void* context_;
  Callback call_;
  Callback drop_;
};

}  // namespace
}  // namespace admiral

// Takes ownership of `context`, even on failure.
extern "C" int admiral_on_gradient(const at::Tensor* parameter, void* context, void (*call)(void*),
                                   void (*drop)(void*)) {
  return admiral::guarded([&] {
    auto hook = std::make_unique<admiral::GradientHook>(context, call, drop);
    TORCH_CHECK(parameter->is_leaf() && parameter->requires_grad(), "not a leaf that wants a gradient");
    torch::autograd::impl::set_post_acc_grad_hooks(*parameter, std::move(hook));
  });
}

// Takes ownership of `context`, even on failure. `call` takes ownership of the gradient.
extern "C" int admiral_watch_gradient(const at::Tensor* tensor, void* context, void (*call)(void*, at::Tensor*),
                                      void (*drop)(void*)) {
  return admiral::guarded([&] {
    const std::shared_ptr<void> owner(context, drop);
    tensor->register_hook([owner, call](const at::Tensor& gradient) {
      if (gradient.defined()) {
        call(owner.get(), new at::Tensor(gradient));
      }
    });
  });
}
