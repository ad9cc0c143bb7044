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

// Bytes of a block of transformed tiles. The block fits in a core's second-level cache together with some weights.
constexpr int64_t kBlockBytes = 768 << 10;
// The limits of the tiles of a block. The lower one ensures enough use of the weights that are read, and a larger block
// than the upper one has no benefit.
constexpr int64_t kMinTiles = 128, kMaxTiles = 256;
// The limit of the memory of all threads' separate sums of weight gradients.
constexpr int64_t kMaxSumBytes = 1 << 30;
// The transform of the weights is worthwhile from kLeastTiles tiles, plus one tile for each kWeightsPerTile weights, because
// the weights are read from memory.
constexpr int64_t kLeastTiles = 64, kWeightsPerTile = 4096;

int64_t num_tiles(const Winograd& maps) { return maps.batch * ((maps.height + 1) / 2) * ((maps.width + 1) / 2); }

// Returns the number of tiles of a block: a multiple of the kernels' rows, and small enough that all threads have work.
int64_t tiles_per_block(const Winograd& maps) {
  const int64_t fitting = kBlockBytes / (64 * (maps.inputs + maps.outputs));
  const int64_t share = (num_tiles(maps) + at::get_num_threads() - 1) / at::get_num_threads();
  return (std::min(std::clamp(fitting, kMinTiles, kMaxTiles), share) + 7) / 8 * 8;
}

Tensor scratch(int64_t floats) { return at::empty({floats}, at::TensorOptions().dtype(at::kFloat)); }

// The layout of the weights with one row for each input channel, or, if mirrored, for each output channel.
WinogradWeights layout_of(const Tensor& weight, bool mirrored) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  if (mirrored) return {outputs, inputs, 9 * inputs, 9, true};
  return {inputs, outputs, 9, 9 * inputs, false};
}

// Calls body(begin, end, scratch) for all rows of the weights, on libtorch's threads.
template <typename Body>
void for_weight_rows(const WinogradWeights& layout, Body body) {
  const int64_t grain = std::max<int64_t>(8, (1 << 15) / (9 * layout.columns));
  at::parallel_for(0, layout.rows, grain, [&](int64_t begin, int64_t end) {
    const Tensor memory = scratch(kernels().winograd_weights_scratch(layout));
    body(begin, end, memory.mutable_data_ptr<float>());
  });
}

Tensor transform(const Tensor& weight, bool mirrored) {
  const WinogradWeights layout = layout_of(weight, mirrored);
  const Tensor transformed = scratch(16 * layout.rows * layout.columns);
  for_weight_rows(layout, [&](int64_t begin, int64_t end, float* memory) {
    kernels().winograd_weights(layout, weight.const_data_ptr<float>(), begin, end, memory,
                               transformed.mutable_data_ptr<float>());
  });
  return transformed;
}

Tensor convolve(const Tensor& x, const Tensor& transformed, const float* bias, int64_t outputs) {
  const Winograd maps{x.size(0), x.size(2), x.size(3), x.size(1), outputs};
  const Tensor y = at::empty({maps.batch, maps.outputs, maps.height, maps.width}, x.options(),
                             at::MemoryFormat::ChannelsLast);
  const int64_t tiles = num_tiles(maps), block = tiles_per_block(maps);
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

bool can_transform(const Tensor& weight) {
  return weight.is_cpu() && weight.scalar_type() == at::kFloat && weight.dim() == 4 && weight.size(2) == 3 &&
         weight.size(3) == 3 && weight.size(0) % kPanel == 0 && weight.size(1) % kPanel == 0 && weight.is_contiguous();
}

// The choice depends on shapes only, so that a sampled image does not depend on the number of threads.
bool use_winograd(const Tensor& x, const Tensor& weight, int64_t stride, int64_t padding) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  return stride == 1 && padding == 1 && x.is_cpu() && x.scalar_type() == at::kFloat && can_transform(weight) &&
         inputs == x.size(1) && is_channels_last(x) && 64 * inputs * outputs <= kMaxSumBytes &&
         num_tiles({x.size(0), x.size(2), x.size(3), inputs, outputs}) >=
             kLeastTiles + inputs * outputs / kWeightsPerTile;
}

Tensor winograd_transformed(const Tensor& weight) { return transform(weight, false); }

Tensor winograd_convolve(const Tensor& x, const Tensor& transformed, const Tensor& bias) {
  TORCH_CHECK(bias.is_cpu() && bias.dim() == 1 && transformed.numel() == 16 * x.size(1) * bias.size(0),
              "the bias has one value for each output of the transformed weights");
  const Tensor contiguous = bias.contiguous();
  return convolve(x, transformed, contiguous.const_data_ptr<float>(), bias.size(0));
}

// A convolution with mirrored weights.
Tensor winograd_input_gradient(const Tensor& dy, const Tensor& weight) {
  return convolve(dy, transform(weight, true), nullptr, weight.size(1));
}

std::tuple<Tensor, Tensor> winograd_weight_gradients(const Tensor& dy, const Tensor& x) {
  const Winograd maps{x.size(0), x.size(2), x.size(3), x.size(1), dy.size(1)};
  const int64_t tiles = num_tiles(maps), block = tiles_per_block(maps), blocks = (tiles + block - 1) / block;
  const int64_t weights = 16 * maps.inputs * maps.outputs;
  // Each part sums its blocks separately. The order of summation depends only on the number of threads.
  const int64_t fitting = std::max<int64_t>(kMaxSumBytes / (4 * (weights + maps.outputs)), 1);
  const int64_t parts = std::min({int64_t{at::get_num_threads()}, blocks, fitting});
  const Tensor sums = at::zeros({parts, weights + maps.outputs}, x.options());
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    const Tensor memory = scratch(kernels().winograd_scratch(maps, block));
    for (int64_t part = first; part < last; ++part) {
      float* const part_sums = sums.mutable_data_ptr<float>() + part * (weights + maps.outputs);
      for (int64_t i = part * blocks / parts; i < (part + 1) * blocks / parts; ++i)
        kernels().winograd_backward(maps, x.const_data_ptr<float>(), dy.const_data_ptr<float>(), i * block,
                                    std::min((i + 1) * block, tiles), memory.mutable_data_ptr<float>(),
                                    part_sums, part_sums + weights);
    }
  });
  for (int64_t part = 1; part < parts; ++part) sums[0].add_(sums[part]);
  const Tensor dweight = at::empty({maps.outputs, maps.inputs, 3, 3}, x.options());
  const WinogradWeights layout = layout_of(dweight, false);
  for_weight_rows(layout, [&](int64_t begin, int64_t end, float* memory) {
    kernels().winograd_weight_gradients(layout, sums.const_data_ptr<float>(), begin, end, memory,
                                        dweight.mutable_data_ptr<float>());
  });
  // A copy, because a view would keep the memory of all sums alive.
  return {dweight, sums[0].narrow(0, weights, maps.outputs).clone()};
}

}  // namespace admiral
