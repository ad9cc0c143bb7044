//! The UNet of ADM (the paper's section 3) and its super-resolution form (appendix I).

use admiral_plan::LayerMemory;
use tch::{Kind, Tensor};

use super::activations::{ExecutionMode, outside_blocks};
use super::blocks::{self, Block, BlockSpec, Context, build_down, build_middle, build_up};
use super::embedding::Embedding;
use super::layers::{Builder, Conv2d, GroupNorm, Start};
use super::params::{ParamSpecs, Params};
use super::torso::enter_torso;
use crate::ops::Kernels;

/// The spec of a UNet.
#[derive(Debug, Clone, PartialEq)]
pub struct UNetSpec {
    /// Height and width of the images in pixels.
    pub image_size: i64,
    /// Channels of the input: the image's channels, or twice as many for super-resolution.
    pub in_channels: i64,
    /// Channels of the output: the image's channels, or twice as many with learned variance.
    pub out_channels: i64,
    /// The number of rows of the class embedding, with that of the null class. `None` for an unconditional network.
    pub num_classes: Option<i64>,
    /// The properties of the blocks.
    pub blocks: BlockSpec,
}

/// The structure of a UNet. It does not hold the values of its parameters.
#[derive(Debug)]
pub struct UNet {
    spec: UNetSpec,
    embedding: Embedding,
    input_blocks: Vec<Block>,
    middle_block: Block,
    output_blocks: Vec<Block>,
    out_norm: GroupNorm,
    out_conv: Conv2d,
}

impl UNet {
    /// Builds the structure and lists its parameters.
    #[must_use]
    pub fn build(spec: &UNetSpec) -> (Self, ParamSpecs) {
        let mut specs = ParamSpecs::default();
        let mut builder = Builder::new(&mut specs);
        let embedding = Embedding::build(&mut builder, spec.blocks.model_channels, spec.num_classes);
        let (input_blocks, widths) = build_down(&mut builder, &spec.blocks, spec.in_channels);
        let deepest = widths.last().copied().unwrap_or(spec.blocks.model_channels);
        let middle_block = build_middle(&mut builder, &spec.blocks, deepest);
        let output_blocks = build_up(&mut builder, &spec.blocks, widths);
        let width = spec.blocks.width(0);
        let out_norm = GroupNorm::build(builder.sub("out.0"), width);
        let out_conv = Conv2d::build(builder.sub("out.2"), [width, spec.out_channels], 3, 1, Start::Zero);
        (Self { spec: spec.clone(), embedding, input_blocks, middle_block, output_blocks, out_norm, out_conv }, specs)
    }

    /// Returns the spec that the UNet was built from.
    #[must_use]
    pub fn spec(&self) -> &UNetSpec {
        &self.spec
    }

    /// Computes `[batch, out, height, width]`, float32, from `x` `[batch, in, height, width]`, `timesteps` `[batch]`
    /// and `labels`: `[batch]`, int64, or class embeddings `[batch, 4 * model_channels]`, float32. The torso computes
    /// in the type of its parameters. Dropout is enabled if `dropout_seed` is `Some`.
    pub fn forward(
        &self,
        kernels: &Kernels,
        params: &Params,
        x: &Tensor,
        timesteps: &Tensor,
        labels: Option<&Tensor>,
        dropout_seed: Option<u64>,
    ) -> Tensor {
        let embedding = self.embedding.forward(params, timesteps, labels);
        let context = Context::new(&self.spec.blocks, kernels, params, &embedding, dropout_seed);
        let mut hidden = enter_torso(&self.input_blocks, kernels, params, x);
        let mut skips = Vec::with_capacity(self.input_blocks.len());
        for block in &self.input_blocks {
            hidden = blocks::forward(block, &context, &hidden);
            skips.push(hidden.shallow_clone());
        }
        hidden = blocks::forward(&self.middle_block, &context, &hidden);
        for block in &self.output_blocks {
            hidden = match skips.pop() {
                Some(skip) => blocks::forward_joined(block, &context, &hidden, &skip),
                None => blocks::forward(block, &context, &hidden),
            };
        }
        self.out_conv.forward(
            kernels,
            params,
            &self.out_norm.forward_silu(kernels, params, &hidden.to_kind(Kind::Float)),
        )
    }

    /// Returns the class embeddings of `labels`, `[batch]`, int64: `[batch, 4 * model_channels]`, float32. `None` for an
    /// unconditional network.
    #[must_use]
    pub fn class_embedding(&self, params: &Params, labels: &Tensor) -> Option<Tensor> {
        self.embedding.of_classes(params, labels)
    }

    /// FLOPs of the forward pass for one image. Counts convolutions and matrix products, with 2 FLOPs for a
    /// multiply-add.
    #[must_use]
    pub fn forward_flops(&self) -> u64 {
        let mut size = self.spec.image_size;
        let mut sum = self.embedding.flops();
        let path = self.input_blocks.iter().chain([&self.middle_block]).chain(&self.output_blocks);
        for block in path {
            let (flops, out) = blocks::flops(block, size);
            sum += flops;
            size = out;
        }
        sum + self.out_conv.flops(size)
    }

    /// Returns the memory of each layer that the forward pass saves for backward for one image.
    #[must_use]
    pub fn memory(&self, mode: ExecutionMode) -> Vec<LayerMemory> {
        let mut layers = vec![outside_blocks("embedding", mode.float(self.embedding.saved_elements()))];
        let size = blocks::memory("input_blocks", &self.input_blocks, self.spec.image_size, mode, &mut layers);
        let middle = std::slice::from_ref(&self.middle_block);
        let size = blocks::memory("middle_block", middle, size, mode, &mut layers);
        let size = blocks::memory("output_blocks", &self.output_blocks, size, mode, &mut layers);
        // The layers after the torso compute in float32. In half precision their input is a copy.
        let input_bytes = mode.float(self.out_conv.inputs() * size * size);
        layers.push(LayerMemory {
            name: "out".into(),
            input_bytes,
            keeps_input: true,
            inner_bytes: mode.norm(&self.out_norm, size * size, false, false, true).inner_bytes + input_bytes,
            backward_bytes: 3 * input_bytes,
            can_checkpoint: false,
        });
        layers
    }
}
