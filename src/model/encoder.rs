//! The classifier: the downward half of the UNet and a pool (the paper's section 4.3).

use admiral_plan::LayerMemory;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::activations::{ExecutionMode, outside_blocks};
use super::attention::AttentionPool;
use super::blocks::{self, Block, BlockSpec, Context, build_down, build_middle};
use super::embedding::Embedding;
use super::layers::{Builder, Conv2d, GroupNorm, Linear, Start};
use super::params::{ParamSpecs, Params};
use super::torso::enter_torso;
use crate::ops::Kernels;

/// The classifier's pool from feature maps to logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The mean of the last map, then a 1x1 convolution initialized to zero.
    Adaptive,
    /// Attention from the mean pixel to all pixels (the paper's choice).
    #[default]
    Attention,
    /// The means of all blocks' maps, then two linear layers with ReLU in between.
    Spatial,
    /// The means of all blocks' maps, then two linear layers with group normalization and SiLU in between.
    SpatialV2,
}

/// The hidden channels of the spatial pools.
const SPATIAL_WIDTH: i64 = 2048;

/// The spec of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Height and width of the images in pixels.
    pub image_size: i64,
    /// Channels of the images.
    pub in_channels: i64,
    /// Length of the output: the number of classes.
    pub out_channels: i64,
    /// The pool from feature maps to logits.
    pub pool: Pool,
    /// The properties of the blocks.
    pub blocks: BlockSpec,
}

#[derive(Debug)]
enum Head {
    Adaptive { norm: GroupNorm, conv: Conv2d },
    Attention { norm: GroupNorm, pool: AttentionPool },
    Spatial { first: Linear, second: Linear },
    SpatialV2 { first: Linear, norm: GroupNorm, second: Linear },
}

/// The structure of an encoder. It does not hold the values of its parameters.
#[derive(Debug)]
pub struct Encoder {
    spec: EncoderSpec,
    embedding: Embedding,
    input_blocks: Vec<Block>,
    middle_block: Block,
    head: Head,
}

impl Encoder {
    /// Builds the structure and lists its parameters.
    #[must_use]
    pub fn build(spec: &EncoderSpec) -> (Self, ParamSpecs) {
        let mut specs = ParamSpecs::default();
        let mut builder = Builder::new(&mut specs);
        let embedding = Embedding::build(&mut builder, spec.blocks.model_channels, None);
        let (input_blocks, widths) = build_down(&mut builder, &spec.blocks, spec.in_channels);
        let deepest = widths.last().copied().unwrap_or(spec.blocks.model_channels);
        let middle_block = build_middle(&mut builder, &spec.blocks, deepest);
        let features = widths.iter().sum::<i64>() + deepest;
        let mut out = builder.sub("out");
        let head = match spec.pool {
            Pool::Adaptive => Head::Adaptive {
                norm: GroupNorm::build(out.sub(0), deepest),
                conv: Conv2d::build(out.sub(3), [deepest, spec.out_channels], 1, 1, Start::Zero),
            },
            Pool::Attention => {
                let size = spec.image_size >> (spec.blocks.channel_mult.len() - 1);
                let heads = spec.blocks.heads(deepest);
                Head::Attention {
                    norm: GroupNorm::build(out.sub(0), deepest),
                    pool: AttentionPool::build(out.sub(2), size, deepest, heads, spec.out_channels),
                }
            }
            Pool::Spatial => Head::Spatial {
                first: Linear::build(out.sub(0), [features, SPATIAL_WIDTH], Start::Default),
                second: Linear::build(out.sub(2), [SPATIAL_WIDTH, spec.out_channels], Start::Default),
            },
            Pool::SpatialV2 => Head::SpatialV2 {
                first: Linear::build(out.sub(0), [features, SPATIAL_WIDTH], Start::Default),
                norm: GroupNorm::build(out.sub(1), SPATIAL_WIDTH),
                second: Linear::build(out.sub(3), [SPATIAL_WIDTH, spec.out_channels], Start::Default),
            },
        };
        (Self { spec: spec.clone(), embedding, input_blocks, middle_block, head }, specs)
    }

    /// Returns the spec that the encoder was built from.
    #[must_use]
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Computes logits `[batch, out]`, float32, from `x` `[batch, in, height, width]` and `timesteps` `[batch]`.
    /// Dropout is enabled if `dropout_seed` is `Some`.
    pub fn forward(
        &self,
        kernels: &Kernels,
        params: &Params,
        x: &Tensor,
        timesteps: &Tensor,
        dropout_seed: Option<u64>,
    ) -> Tensor {
        let (hidden, means) = self.maps(kernels, params, x, timesteps, dropout_seed);
        self.logits(kernels, params, &hidden, &means)
    }

    fn logits(&self, kernels: &Kernels, params: &Params, hidden: &Tensor, means: &[Tensor]) -> Tensor {
        match &self.head {
            Head::Adaptive { norm, conv } => {
                let mean = norm.forward_silu(kernels, params, hidden).mean_dim([2i64, 3].as_slice(), true, Kind::Float);
                conv.forward(kernels, params, &mean).flatten(1, -1)
            }
            Head::Attention { norm, pool } => pool.forward(params, &norm.forward_silu(kernels, params, hidden)),
            Head::Spatial { first, second } => {
                second.forward(params, &first.forward(params, &Tensor::cat(means, 1)).relu())
            }
            Head::SpatialV2 { first, norm, second } => {
                let features = first.forward(params, &Tensor::cat(means, 1));
                second.forward(params, &norm.forward_silu(kernels, params, &features))
            }
        }
    }

    /// Computes the features before the head, `[batch, features]`, and the logits, `[batch, out]`, without dropout. The
    /// features are what the head takes, averaged over the pixels of a map: after normalization and SiLU for the pools that
    /// normalize first, and for the spatial pools the means of all blocks' maps.
    pub fn features(&self, kernels: &Kernels, params: &Params, x: &Tensor, timesteps: &Tensor) -> (Tensor, Tensor) {
        let (hidden, means) = self.maps(kernels, params, x, timesteps, None);
        let features = match &self.head {
            Head::Adaptive { norm, .. } | Head::Attention { norm, .. } => {
                norm.forward_silu(kernels, params, &hidden).mean_dim([2i64, 3].as_slice(), false, Kind::Float)
            }
            Head::Spatial { .. } | Head::SpatialV2 { .. } => Tensor::cat(&means, 1),
        };
        (features, self.logits(kernels, params, &hidden, &means))
    }

    /// Returns the number of [`features`](Self::features) of an image.
    #[must_use]
    pub fn num_features(&self) -> i64 {
        match &self.head {
            Head::Adaptive { norm, .. } | Head::Attention { norm, .. } => norm.channels(),
            Head::Spatial { first, .. } | Head::SpatialV2 { first, .. } => first.channels()[0],
        }
    }

    /// Computes the last map, float32 `[batch, channels, height, width]`, and where the head wants them the means of all
    /// blocks' maps, `[batch, channels]` each.
    fn maps(
        &self,
        kernels: &Kernels,
        params: &Params,
        x: &Tensor,
        timesteps: &Tensor,
        dropout_seed: Option<u64>,
    ) -> (Tensor, Vec<Tensor>) {
        let embedding = self.embedding.forward(params, timesteps, None);
        let context = Context::new(&self.spec.blocks, kernels, params, &embedding, dropout_seed);
        let wants_means = matches!(self.head, Head::Spatial { .. } | Head::SpatialV2 { .. });
        let mut means = Vec::new();
        let mut hidden = enter_torso(&self.input_blocks, kernels, params, x);
        for block in self.input_blocks.iter().chain([&self.middle_block]) {
            hidden = blocks::forward(block, &context, &hidden);
            if wants_means {
                means.push(hidden.to_kind(Kind::Float).mean_dim([2i64, 3].as_slice(), false, Kind::Float));
            }
        }
        (hidden.to_kind(Kind::Float), means)
    }

    /// FLOPs of the forward pass for one image. Counts convolutions and matrix products, with 2 FLOPs for a
    /// multiply-add.
    #[must_use]
    pub fn forward_flops(&self) -> u64 {
        let mut size = self.spec.image_size;
        let mut sum = self.embedding.flops();
        for block in self.input_blocks.iter().chain([&self.middle_block]) {
            let (flops, out) = blocks::flops(block, size);
            sum += flops;
            size = out;
        }
        sum + match &self.head {
            Head::Adaptive { conv, .. } => conv.flops(1),
            Head::Attention { pool, .. } => pool.flops(),
            Head::Spatial { first, second } | Head::SpatialV2 { first, second, .. } => first.flops(1) + second.flops(1),
        }
    }

    /// Returns the memory of each layer that the forward pass saves for backward for one image.
    #[must_use]
    pub fn memory(&self, mode: ExecutionMode) -> Vec<LayerMemory> {
        let mut layers = vec![outside_blocks("embedding", mode.float(self.embedding.saved_elements()))];
        let size = blocks::memory("input_blocks", &self.input_blocks, self.spec.image_size, mode, &mut layers);
        let middle = std::slice::from_ref(&self.middle_block);
        let size = blocks::memory("middle_block", middle, size, mode, &mut layers);
        // The layers after the torso compute in float32. In half precision their input is a copy.
        let norm_bytes = |norm: &GroupNorm| {
            let input = mode.float(norm.channels() * size * size);
            input + mode.norm(norm, size * size, false, false, true).inner_bytes
        };
        let linear_bytes = |first: &Linear, second: &Linear| {
            let ([features, width], [_, outputs]) = (first.channels(), second.channels());
            mode.float(features + 2 * width + outputs)
        };
        let saved = match &self.head {
            Head::Adaptive { norm, conv } => norm_bytes(norm) + mode.float(conv.inputs()),
            Head::Attention { norm, pool } => norm_bytes(norm) + pool.saved_bytes(mode),
            Head::Spatial { first, second } => linear_bytes(first, second),
            Head::SpatialV2 { first, norm, second } => {
                linear_bytes(first, second) + mode.norm(norm, 1, false, false, true).inner_bytes
            }
        };
        layers.push(outside_blocks("out", saved));
        layers
    }
}
