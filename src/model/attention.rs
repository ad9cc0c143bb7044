//! Self-attention over the pixels of a feature map, and the attention pool of the classifier.

use admiral_plan::LayerMemory;
use tch::Tensor;

use crate::ops::{self, Kernels};

use super::activations::ExecutionMode;
use super::layers::{Builder, GroupNorm, Linear, Start};
use super::params::{Init, ParamId, Params};
use super::residual::rescale;

/// The order of the channels of the joint projection of queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionOrder {
    /// Head by head, each with its q, k and v: the order of most released models.
    HeadsOutside,
    /// All heads of q, then of k, then of v: the newer order.
    QkvOutside,
}

/// Self-attention from the projections `[batch, length, 3 * channels]` to `[batch, length, channels]`.
fn attend(qkv: &Tensor, num_heads: i64, order: AttentionOrder) -> Tensor {
    let size = qkv.size();
    let (batch, length, channels) = (size[0], size[1], size[2] / 3);
    let head = channels / num_heads;
    // Views, each [batch, heads, length, head]: the last dimension stays contiguous.
    let parts = match order {
        AttentionOrder::HeadsOutside => qkv.view([batch, length, num_heads, 3, head]).permute([3, 0, 2, 1, 4]),
        AttentionOrder::QkvOutside => qkv.view([batch, length, 3, num_heads, head]).permute([2, 0, 3, 1, 4]),
    };
    // `unbind` has one backward node. Three separate selections would have three gradients of the full size, which
    // backward would have to add.
    let parts = parts.unbind(0);
    ops::attention(&parts[0], &parts[1], &parts[2]).transpose(1, 2).reshape([batch, length, channels])
}

/// FLOPs of the two matrix products of attention for one image.
fn attention_flops(length: i64, channels: i64) -> u64 {
    4 * (length * length * channels) as u64
}

/// Elements that attention saves for backward for one image: the input of the joint projection, q, k, v, and the
/// output, which is the input of the last projection.
fn saved_attention_elements(length: i64, channels: i64) -> i64 {
    5 * length * channels
}

/// A residual attention block.
#[derive(Debug, Clone)]
pub struct AttentionBlock {
    norm: GroupNorm,
    qkv: Linear,
    projection: Linear,
    channels: i64,
    num_heads: i64,
    order: AttentionOrder,
    rescale_residual: bool,
}

impl AttentionBlock {
    /// Registers `norm`, `qkv` and `proj_out`. `proj_out` is initialized to zero. If `rescale_residual`, the sum of the
    /// input and the branch is scaled by `1 / sqrt(2)`.
    pub fn build(
        mut builder: Builder<'_>,
        channels: i64,
        num_heads: i64,
        order: AttentionOrder,
        rescale_residual: bool,
    ) -> Self {
        Self {
            norm: GroupNorm::build(builder.sub("norm"), channels),
            qkv: Linear::build_width_one(builder.sub("qkv"), [channels, 3 * channels], Start::Default),
            projection: Linear::build_width_one(builder.sub("proj_out"), [channels, channels], Start::Zero),
            channels,
            num_heads,
            order,
            rescale_residual,
        }
    }

    /// `[batch, channels, height, width]` to the same shape.
    pub fn forward(&self, kernels: &Kernels, params: &Params, x: &Tensor) -> Tensor {
        let size = x.size();
        let normed = self.norm.forward(kernels, params, x);
        // Pixels as rows: a view of a channels-last map, with contiguous heads for attention.
        let tokens = normed.permute([0, 2, 3, 1]).reshape([size[0], size[2] * size[3], self.channels]);
        let attended = attend(&self.qkv.forward(params, &tokens), self.num_heads, self.order);
        let projected = self.projection.forward(params, &attended);
        let sum = x + projected.view([size[0], size[2], size[3], self.channels]).permute([0, 3, 1, 2]);
        if self.rescale_residual { rescale(sum) } else { sum }
    }

    /// FLOPs for one image of `size` pixels square.
    pub fn flops(&self, size: i64) -> u64 {
        let length = size * size;
        self.qkv.flops(length) + self.projection.flops(length) + attention_flops(length, self.channels)
    }

    /// Returns the memory saved for backward for one image of `size` pixels square.
    pub fn memory(&self, size: i64, mode: ExecutionMode) -> LayerMemory {
        let length = size * size;
        let norm = mode.norm(&self.norm, length, mode.half, false, false);
        // The logarithms of the softmax sums are float32 in every precision.
        let attention =
            mode.torso(saved_attention_elements(length, self.channels)) + mode.float(self.num_heads * length);
        LayerMemory {
            name: String::new(),
            input_bytes: mode.torso(self.channels * length),
            keeps_input: norm.keeps_input,
            inner_bytes: norm.inner_bytes + attention,
            backward_bytes: mode.backward(3 * self.channels * length),
            can_checkpoint: true,
        }
    }
}

/// The attention pool of CLIP (Radford et al. 2021): the mean of all pixels attends to all pixels and itself.
#[derive(Debug, Clone)]
pub struct AttentionPool {
    positions: ParamId,
    qkv: Linear,
    projection: Linear,
    channels: i64,
    num_heads: i64,
    size: i64,
}

impl AttentionPool {
    /// Registers the positional embedding `[channels, size^2 + 1]` and both projections.
    pub fn build(mut builder: Builder<'_>, size: i64, channels: i64, num_heads: i64, num_outputs: i64) -> Self {
        let init = Init::Normal { std: (channels as f64).powf(-0.5) };
        Self {
            positions: builder.param("positional_embedding", &[channels, size * size + 1], init),
            qkv: Linear::build_width_one(builder.sub("qkv_proj"), [channels, 3 * channels], Start::Default),
            projection: Linear::build_width_one(builder.sub("c_proj"), [channels, num_outputs], Start::Default),
            channels,
            num_heads,
            size,
        }
    }

    /// `[batch, channels, size, size]` to `[batch, outputs]`.
    pub fn forward(&self, params: &Params, x: &Tensor) -> Tensor {
        let batch = x.size()[0];
        let pixels = x.permute([0, 2, 3, 1]).reshape([batch, self.size * self.size, self.channels]);
        let mean = pixels.mean_dim([1i64].as_slice(), true, x.kind());
        let tokens = Tensor::cat(&[mean, pixels], 1) + params.get(self.positions).transpose(0, 1).unsqueeze(0);
        let attended = attend(&self.qkv.forward(params, &tokens), self.num_heads, AttentionOrder::QkvOutside);
        self.projection.forward(params, &attended.select(1, 0))
    }

    /// FLOPs for one image. The output projection is counted for every pixel, as in the published count.
    pub fn flops(&self) -> u64 {
        let length = self.size * self.size + 1;
        self.qkv.flops(length) + self.projection.flops(length) + attention_flops(length, self.channels)
    }

    /// Bytes saved for backward for one image. The pool computes in float32.
    pub fn saved_bytes(&self, mode: ExecutionMode) -> u64 {
        let length = self.size * self.size + 1;
        mode.float(saved_attention_elements(length, self.channels) + self.num_heads * length)
    }
}
