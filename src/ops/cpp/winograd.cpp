#include "winograd.h"

#include "kernels.h"
#include "layout.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace admiral {
namespace {

using at::Tensor;

// Bytes of a block of tiles, transformed, that a core's second cache holds beside some of the weights.
constexpr int64_t kBlockBytes = 768 << 10;
// Tiles of a block, so that what is read of the weights is used often enough, and so that the rest is worth it.
constexpr int64_t kLeastTiles = 128, kMostTiles = 256;
// The gradients of the weights that threads sum apart may take so much memory in all.
constexpr int64_t kMostSumBytes = 1 << 30;
// From so many tiles of a thread on the transform of the weights pays, and so many more for so many weights, which come
// from memory.
constexpr int64_t kWorthTiles = 64, kWorthWeights = 4096;

int64_t tiles_of(const Winograd& maps) { return maps.batch * ((maps.height + 1) / 2) * ((maps.width + 1) / 2); }

// Tiles that are worked on at once: whole blocks of the kernels' rows, and all threads have some.
int64_t block_of(const Winograd& maps) {
  const int64_t fitting = kBlockBytes / (64 * (maps.inputs + maps.outputs));
  const int64_t share = (tiles_of(maps) + at::get_num_threads() - 1) / at::get_num_threads();
  return (std::min(std::clamp(fitting, kLeastTiles, kMostTiles), share) + 7) / 8 * 8;
}

Tensor scratch(int64_t floats) { return at::empty({floats}, at::TensorOptions().dtype(at::kFloat)); }

// The weight's transform for rows of inputs, or, mirrored, of outputs.
WinogradWeights lie_of(const Tensor& weight, bool mirrored) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  if (mirrored) return {outputs, inputs, 9 * inputs, 9, true};
  return {inputs, outputs, 9, 9 * inputs, false};
}

// Calls body(begin, end, scratch) for all rows of weights.
template <typename Body>
void for_weight_rows(const WinogradWeights& lie, Body body) {
  const int64_t grain = std::max<int64_t>(8, (1 << 15) / (9 * lie.columns));
  at::parallel_for(0, lie.rows, grain, [&](int64_t begin, int64_t end) {
    const Tensor memory = scratch(kernels().winograd_weights_scratch(lie));
    body(begin, end, memory.mutable_data_ptr<float>());
  });
}

Tensor convolve(const Tensor& x, const Tensor& weight, const float* bias, bool mirrored) {
  const WinogradWeights lie = lie_of(weight, mirrored);
  const Winograd maps{x.size(0), x.size(2), x.size(3), lie.rows, lie.columns};
  const Tensor transformed = scratch(16 * lie.rows * lie.columns);
  for_weight_rows(lie, [&](int64_t begin, int64_t end, float* memory) {
    kernels().winograd_weights(lie, weight.const_data_ptr<float>(), begin, end, memory,
                               transformed.mutable_data_ptr<float>());
  });
  const Tensor y = at::empty({maps.batch, maps.outputs, maps.height, maps.width}, x.options(),
                             at::MemoryFormat::ChannelsLast);
  const int64_t tiles = tiles_of(maps), block = block_of(maps);
  at::parallel_for(0, (tiles + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    const Tensor memory = scratch(kernels().winograd_scratch(maps, block));
    for (int64_t i = begin; i < end; ++i)
      kernels().winograd_forward(maps, x.const_data_ptr<float>(), transformed.const_data_ptr<float>(), bias, i * block,
                                 std::min((i + 1) * block, tiles), memory.mutable_data_ptr<float>(),
                                 y.mutable_data_ptr<float>());
  });
  return y;
}

}  // namespace

bool winograd_suits(const Tensor& x, const Tensor& weight, int64_t stride, int64_t padding) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1), threads = at::get_num_threads();
  return stride == 1 && padding == 1 && x.is_cpu() && x.scalar_type() == at::kFloat && weight.size(2) == 3 &&
         weight.size(3) == 3 && outputs % kPanel == 0 && inputs % kPanel == 0 && inputs == x.size(1) &&
         weight.is_contiguous() && lies_channels_last(x) && 64 * inputs * outputs * threads <= kMostSumBytes &&
         tiles_of({x.size(0), x.size(2), x.size(3), inputs, outputs}) >=
             kWorthTiles * threads + inputs * outputs / kWorthWeights;
}

Tensor winograd_convolve(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  TORCH_CHECK(bias.is_cpu() && bias.dim() == 1 && bias.size(0) == weight.size(0), "bias: one value for each output");
  const Tensor dense = bias.contiguous();
  return convolve(x, weight, dense.const_data_ptr<float>(), false);
}

// A convolution with the weights turned around.
Tensor winograd_input_gradient(const Tensor& dy, const Tensor& weight) { return convolve(dy, weight, nullptr, true); }

std::tuple<Tensor, Tensor> winograd_weight_gradients(const Tensor& dy, const Tensor& x) {
  const Winograd maps{x.size(0), x.size(2), x.size(3), x.size(1), dy.size(1)};
  const int64_t tiles = tiles_of(maps), block = block_of(maps), blocks = (tiles + block - 1) / block;
  const int64_t weights = 16 * maps.inputs * maps.outputs;
  // Each thread sums its blocks; the order is the same in each run with so many threads.
  const int64_t parts = std::min<int64_t>(at::get_num_threads(), blocks);
  const Tensor sums = at::zeros({parts, weights + maps.outputs}, x.options());
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    const Tensor memory = scratch(kernels().winograd_scratch(maps, block));
    for (int64_t part = first; part < last; ++part) {
      float* const to = sums.mutable_data_ptr<float>() + part * (weights + maps.outputs);
      for (int64_t i = part * blocks / parts; i < (part + 1) * blocks / parts; ++i)
        kernels().winograd_backward(maps, x.const_data_ptr<float>(), dy.const_data_ptr<float>(), i * block,
                                    std::min((i + 1) * block, tiles), memory.mutable_data_ptr<float>(), to,
                                    to + weights);
    }
  });
  for (int64_t part = 1; part < parts; ++part) sums[0].add_(sums[part]);
  const Tensor dweight = at::empty({maps.outputs, maps.inputs, 3, 3}, x.options());
  const WinogradWeights lie = lie_of(dweight, false);
  for_weight_rows(lie, [&](int64_t begin, int64_t end, float* at) {
    kernels().winograd_weight_gradients(lie, sums.const_data_ptr<float>(), begin, end, at,
                                        dweight.mutable_data_ptr<float>());
  });
  // A view would keep all sums alive.
  return {dweight, sums[0].narrow(0, weights, maps.outputs).clone()};
}

}  // namespace admiral
