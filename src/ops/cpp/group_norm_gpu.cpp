// Group normalization with scale, shift, SiLU and dropout as a single autograd node on the GPU. Rust launches its
// kernels on libtorch's stream. The input and the group statistics are saved for backward, which computes the dropout
// mask again.
#include "bridge.h"
#include "layout.h"

#include <ATen/core/ivalue.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

namespace admiral {
namespace {

using at::Tensor;
using torch::autograd::variable_list;

// Shape and addresses. The same layout as `Arguments` in group_norm_gpu.rs. Addresses are null for missing tensors and
// for tensors that a pass does not use.
struct Arguments {
  int64_t batch, channels, spatial, groups;
  double eps, dropout;
  uint64_t seed;
  int32_t kind;
  bool channels_last, silu;
  const void *x, *weight, *bias, *scale, *shift, *dy;
  void *y, *mean, *rstd, *dx, *dweight, *dbias, *dscale, *dshift, *workspace;
};

enum Pass : int32_t { kForwardWorkspace, kForward, kBackwardWorkspace, kBackward };

// Returns the bytes of workspace, or enqueues a pass and returns 0. On failure returns a negative number and writes the
// reason to `failure`, which has `capacity` bytes.
using LaunchCall = int64_t (*)(const void* launcher, int32_t pass, const Arguments*, char* failure, int64_t capacity);
using LaunchDrop = void (*)(const void* launcher);

// Owns the launcher of Rust. The autograd graph holds it until backward has run.
struct Runner : torch::CustomClassHolder {
  Runner(const void* launcher, LaunchCall call, LaunchDrop drop) : launcher(launcher), call(call), drop(drop) {}
  ~Runner() override { drop(launcher); }
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  const void* launcher;
  LaunchCall call;
  LaunchDrop drop;

  int64_t operator()(Pass pass, const Arguments& arguments) const {
    char failure[1024] = {};
    const int64_t result = call(launcher, pass, &arguments, failure, sizeof failure);
    TORCH_CHECK(result >= 0, failure);
    return result;
  }

  // Allocates the workspace and enqueues a pass. libtorch's allocator reuses the workspace only after the pass, because
  // it orders allocations by stream.
  void run_with_workspace(Pass query, Pass pass, Arguments& arguments, const Tensor& like) const {
    const Tensor workspace = at::empty({(*this)(query, arguments)}, like.options().dtype(at::kByte));
    arguments.workspace = workspace.mutable_data_ptr();
    (*this)(pass, arguments);
  }
};

int32_t type_code(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return 0;
    case at::kHalf: return 1;
    case at::kBFloat16: return 2;
    default: TORCH_CHECK(false, "x is of the kind ", x.scalar_type());
  }
}

// Returns a tensor of the shape [channels] or [batch, channels] as contiguous float32.
Tensor contiguous_float(const Tensor& t, at::IntArrayRef shape) {
  return t.defined() ? t.reshape(shape).to(at::kFloat).contiguous() : t;
}

const void* read_address(const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }
void* write_address(const Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }

// The parameters in the form that the kernels accept.
struct Parameters {
  Tensor weight, bias, scale, shift;

  Parameters(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& sc, const Tensor& sh)
      : weight(contiguous_float(w, {x.size(1)})), bias(contiguous_float(b, {x.size(1)})),
        scale(contiguous_float(sc, {x.size(0), x.size(1)})), shift(contiguous_float(sh, {x.size(0), x.size(1)})) {}

  void add_to(Arguments& a) const {
    a.weight = read_address(weight);
    a.bias = read_address(bias);
    a.scale = read_address(scale);
    a.shift = read_address(shift);
  }
};

class GroupNormOnGpu : public torch::autograd::Function<GroupNormOnGpu> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_any, const Tensor& weight,
                        const Tensor& bias, const std::optional<Tensor>& scale_any,
                        const std::optional<Tensor>& shift_any, int64_t groups, double eps, bool silu, double dropout,
                        int64_t seed, const c10::intrusive_ptr<Runner>& run) {
    const bool channels_last = !x_any.is_contiguous() && is_channels_last(x_any);
    const Tensor x = channels_last ? x_any : x_any.contiguous();
    const Tensor scale = scale_any.value_or(Tensor()), shift = shift_any.value_or(Tensor());
    const Parameters parameters(x, weight, bias, scale, shift);
    const Tensor y = at::empty_strided(x.sizes(), x.strides(), x.options());
    const Tensor mean = at::empty({x.size(0), groups}, parameters.weight.options());
    const Tensor rstd = at::empty({x.size(0), groups}, parameters.weight.options());
    context->saved_data["channels_last"] = channels_last;
    context->saved_data["groups"] = groups;
    context->saved_data["eps"] = eps;
    context->saved_data["silu"] = silu;
    context->saved_data["dropout"] = dropout;
    context->saved_data["seed"] = seed;
    context->saved_data["runner"] = c10::IValue::make_capsule(run);
    Arguments arguments = shape(context, x);
    parameters.add_to(arguments);
    arguments.y = write_address(y);
    arguments.mean = write_address(mean);
    arguments.rstd = write_address(rstd);
    run->run_with_workspace(kForwardWorkspace, kForward, arguments, x);
    context->save_for_backward({x, weight, bias, scale, shift, mean, rstd});
    return y;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &scale = saved[3], &shift = saved[4];
    const auto run = c10::static_intrusive_pointer_cast<Runner>(context->saved_data["runner"].toCapsule());
    const Parameters parameters(x, weight, bias, scale, shift);
    Tensor dy = gradients[0];
    if (dy.strides() != x.strides() || dy.scalar_type() != x.scalar_type())
      dy = at::empty_strided(x.sizes(), x.strides(), x.options()).copy_(dy);
    const Tensor dx = at::empty_strided(x.sizes(), x.strides(), x.options());
    const auto like = [&](const Tensor& t) { return t.defined() ? at::empty(t.sizes(), t.options()) : Tensor(); };
    const Tensor dweight = like(parameters.weight), dbias = like(parameters.bias);
    const Tensor dscale = like(parameters.scale), dshift = like(parameters.shift);
    Arguments arguments = shape(context, x);
    parameters.add_to(arguments);
    arguments.dy = read_address(dy);
    arguments.mean = write_address(saved[5]);
    arguments.rstd = write_address(saved[6]);
    arguments.dx = write_address(dx);
    arguments.dweight = write_address(dweight);
    arguments.dbias = write_address(dbias);
    arguments.dscale = write_address(dscale);
    arguments.dshift = write_address(dshift);
    run->run_with_workspace(kBackwardWorkspace, kBackward, arguments, x);
    const auto as = [](const Tensor& gradient, const Tensor& tensor) {
      return tensor.defined() ? gradient.reshape(tensor.sizes()).to(tensor.scalar_type()) : Tensor();
    };
    return {dx,       as(dweight, weight), as(dbias, bias), as(dscale, scale), as(dshift, shift), Tensor(), Tensor(),
            Tensor(), Tensor(),            Tensor(),        Tensor()};
  }

 private:
  static Arguments shape(torch::autograd::AutogradContext* context, const Tensor& x) {
    Arguments arguments{};
    arguments.batch = x.size(0);
    arguments.channels = x.size(1);
    arguments.spatial = x.numel() / (x.size(0) * x.size(1));
    arguments.groups = context->saved_data["groups"].toInt();
    arguments.eps = context->saved_data["eps"].toDouble();
    arguments.dropout = context->saved_data["dropout"].toDouble();
    arguments.seed = static_cast<uint64_t>(context->saved_data["seed"].toInt());
    arguments.kind = type_code(x);
    arguments.channels_last = context->saved_data["channels_last"].toBool();
    arguments.silu = context->saved_data["silu"].toBool();
    arguments.x = read_address(x);
    return arguments;
  }
};

}  // namespace
}  // namespace admiral

// `scale` and `shift` are both null or both not null. `dropout` is a probability below 1, and 0 disables dropout. Takes
// ownership of `launcher`, even on failure, and passes it to `drop` once. The result is a new tensor that the caller
// owns.
extern "C" int admiral_group_norm_gpu(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias,
                                      const at::Tensor* scale, const at::Tensor* shift, int64_t groups, double eps,
                                      bool silu, double dropout, int64_t seed, const void* launcher,
                                      admiral::LaunchCall call, admiral::LaunchDrop drop, at::Tensor** result) {
  return admiral::guarded([&] {
    auto run = c10::make_intrusive<admiral::Runner>(launcher, call, drop);
    TORCH_CHECK(x->dim() >= 2 && x->numel() > 0, "x has the shape ", x->sizes());
    TORCH_CHECK(weight->numel() == x->size(1) && bias->numel() == x->size(1), "weight and bias have ",
                weight->numel(), " and ", bias->numel(), " values for ", x->size(1), " channels");
    const auto optional = [](const at::Tensor* t) { return t ? std::optional<at::Tensor>(*t) : std::nullopt; };
    *result = new at::Tensor(admiral::GroupNormOnGpu::apply(
        *x, *weight, *bias, optional(scale), optional(shift), groups, eps, silu, dropout, seed, run));
  });
}
