//! The UNet of ADM (the paper's section 3) and its super-resolution form (appendix I).

use admiral_plan::LayerMemory;
use tch::{Kind, Tensor};

use super::activations::{Running, whole};
use super::blocks::{self, Block, BlockSpec, Context, build_down, build_middle, build_up};
use super::embedding::Embedding;
use super::layers::{Builder, Conv2d, GroupNorm, Start};
use super::params::{ParamSpecs, Params};
use crate::ops::Kernels;

/// A UNet, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct UNetSpec {
    /// Height and width of the images.
    pub image_size: i64,
    /// Channels of the input: the image's, twice that for super-resolution.
    pub in_channels: i64,
    /// Channels of the output: the image's, twice that with learned variance.
    pub out_channels: i64,
    /// Rows of the class embedding; none for an unconditional network.
    pub num_classes: Option<i64>,
    /// The blocks.
    pub blocks: BlockSpec,
}

/// The structure of a UNet; the values of its parameters lie elsewhere.
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

    /// What was built.
    #[must_use]
    pub fn spec(&self) -> &UNetSpec {
        &self.spec
    }

    /// `x` `[batch, in, height, width]`, `timesteps` `[batch]` and `labels` `[batch]` to `[batch, out, height, width]`,
    /// float32. The torso computes in the type of its parameters.
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
        self.out_conv.forward(kernels, params, &self.out_norm.forward_silu(kernels, params, &hidden.to_kind(Kind::Float)))
    }

    /// FLOPs of one image's forward pass: 2 for a multiply-add, convolutions and matrix products.
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

    /// What forward keeps of one image for backward, layer by layer.
    #[must_use]
    pub fn memory(&self, running: Running) -> Vec<LayerMemory> {
        let mut layers = vec![whole("embedding", running.float(self.embedding.kept_elements()))];
        let size = blocks::memory("input_blocks", &self.input_blocks, self.spec.image_size, running, &mut layers);
        let middle = std::slice::from_ref(&self.middle_block);
        let size = blocks::memory("middle_block", middle, size, running, &mut layers);
        let size = blocks::memory("output_blocks", &self.output_blocks, size, running, &mut layers);
        // Float32 from here on: in half precision the input is a copy.
        let input_bytes = running.float(self.out_conv.inputs() * size * size);
        layers.push(LayerMemory {
            name: "out".into(),
            input_bytes,
            keeps_input: true,
            inner_bytes: running.norm(&self.out_norm, size * size, false, false, true).inner + input_bytes,
            backward_bytes: 3 * input_bytes,
            can_checkpoint: false,
        });
        layers
    }
}

/// The input in the torso's type, and in the layout that every layer after this one keeps. The networks themselves
/// assume none.
pub(super) fn enter_torso(input_blocks: &[Block], kernels: &Kernels, params: &Params, x: &Tensor) -> Tensor {
    match input_blocks.first().map(Vec::as_slice) {
        Some([blocks::Layer::Conv(conv, _), ..]) => lay_out(kernels, &x.to_kind(conv.kind(params))),
        _ => x.shallow_clone(),
    }
}

/// Channels-last where that is faster: on the CPU libtorch's convolutions then need no reordering of their input and
/// output, and `ops::group_norm_silu` takes either.
fn lay_out(kernels: &Kernels, x: &Tensor) -> Tensor {
    if !kernels.prefer_channels_last(x.kind()) {
        return x.shallow_clone();
    }
    let size = x.size();
    let (channels, height, width) = (size[1], size[2], size[3]);
    // The strides of a single channel say nothing about the layout, and libtorch would take it for contiguous.
    let strides = [channels * height * width, 1, channels * width, channels];
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]).as_strided(&size, strides, None)
}
