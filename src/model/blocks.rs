//! The residual block, resampling, and the stacks of blocks that the UNet and the encoder are built from.

use admiral_plan::LayerMemory;
use tch::Tensor;

use crate::ops::{self, Dropout, Kernels};
use admiral_random::{Philox, Stream};

use super::activations::ExecutionMode;
use super::attention::{AttentionBlock, AttentionOrder};
use super::embedding::embedding_width;
use super::layers::{Builder, Conv2d, GroupNorm, Linear, Start};
use super::params::Params;
use super::residual::rescale;

/// The properties shared by all blocks of a network (the paper's section 3 and Tables 11 to 13).
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSpec {
    /// The base number of channels, which the levels multiply.
    pub model_channels: i64,
    /// The number of residual blocks of a level.
    pub num_res_blocks: usize,
    /// Channels of each level as a multiple of `model_channels`, from the full resolution downwards.
    pub channel_mult: Vec<f64>,
    /// Downsampling factors at which attention follows a residual block.
    pub attention_factors: Vec<i64>,
    /// The number of attention heads if `num_head_channels` is `None`.
    pub num_heads: i64,
    /// Channels of one attention head.
    pub num_head_channels: Option<i64>,
    /// The order of the channels of the joint projection in attention.
    pub attention_order: AttentionOrder,
    /// The probability with which dropout zeroes an activation.
    pub dropout: f64,
    /// Whether the embedding is applied by adaptive group normalization (the paper's section 3.1) instead of addition.
    pub use_scale_shift_norm: bool,
    /// Whether resampling uses the residual blocks of BigGAN instead of a convolution.
    pub resblock_updown: bool,
    /// Whether residual and attention blocks scale the sum of their input and their branch by `1 / sqrt(2)`.
    pub rescale_residual: bool,
    /// Activation checkpointing: whether training recomputes each residual and attention block in backward instead of
    /// saving its activations.
    pub use_checkpoint: bool,
}

impl BlockSpec {
    /// Returns the number of channels of a level.
    #[must_use]
    pub fn width(&self, level: usize) -> i64 {
        (self.channel_mult[level] * self.model_channels as f64) as i64
    }

    /// Returns the number of attention heads for a number of channels.
    #[must_use]
    pub fn heads(&self, channels: i64) -> i64 {
        self.num_head_channels.map_or(self.num_heads, |width| channels / width)
    }

    fn attention(&self, builder: Builder<'_>, channels: i64) -> Layer {
        let heads = self.heads(channels);
        Layer::Attention(AttentionBlock::build(builder, channels, heads, self.attention_order, self.rescale_residual))
    }
}

/// The inputs that all blocks of a forward pass share.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The kernels of the device that holds the tensors.
    pub kernels: &'a Kernels,
    /// The values of the parameters.
    pub params: &'a Params,
    /// SiLU of the timestep and class embedding, `[batch, 4 * model_channels]`, float32.
    pub embedding: &'a Tensor,
    /// The seed of the dropout masks. The mask of a block depends on it and on the position of the block in the
    /// network. `None` disables dropout.
    pub dropout_seed: Option<u64>,
    /// Whether residual and attention blocks are recomputed in backward.
    pub recomputes: bool,
}

impl<'a> Context<'a> {
    /// Creates the context for blocks of `spec`. A dropout seed means that the pass belongs to training, and enables
    /// recomputation if the spec requests it.
    #[must_use]
    pub fn new(
        spec: &BlockSpec,
        kernels: &'a Kernels,
        params: &'a Params,
        embedding: &'a Tensor,
        dropout_seed: Option<u64>,
    ) -> Self {
        Self { kernels, params, embedding, dropout_seed, recomputes: spec.use_checkpoint && dropout_seed.is_some() }
    }
}

/// A change of resolution by a factor of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// No change.
    Same,
    /// Nearest-neighbour upsampling to twice the size.
    Up,
    /// The mean of 2x2 pixels, at half the size.
    Down,
}

impl Resample {
    fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Same => x.shallow_clone(),
            Self::Up => {
                let size = x.size();
                x.upsample_nearest2d([2 * size[2], 2 * size[3]], None, None)
            }
            Self::Down => x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None),
        }
    }

    /// Returns the size of the output.
    fn output_size(self, size: i64) -> i64 {
        match self {
            Self::Same => size,
            Self::Up => 2 * size,
            Self::Down => size / 2,
        }
    }
}

/// A residual block. It may change the number of channels and the resolution.
#[derive(Debug, Clone)]
pub struct ResBlock {
    in_norm: GroupNorm,
    in_conv: Conv2d,
    embedding: Linear,
    out_norm: GroupNorm,
    out_conv: Conv2d,
    skip: Option<Conv2d>,
    resample: Resample,
    use_scale_shift_norm: bool,
    rescale_residual: bool,
    dropout: f64,
}

impl ResBlock {
    /// Registers the block's parameters for `[inputs, outputs]` channels.
    pub fn build(mut builder: Builder<'_>, spec: &BlockSpec, channels: [i64; 2], resample: Resample) -> Self {
        let [inputs, outputs] = channels;
        let embedding_outputs = if spec.use_scale_shift_norm { 2 * outputs } else { outputs };
        let embedding_channels = [embedding_width(spec.model_channels), embedding_outputs];
        Self {
            in_norm: GroupNorm::build(builder.sub("in_layers.0"), inputs),
            in_conv: Conv2d::build(builder.sub("in_layers.2"), channels, 3, 1, Start::Default),
            embedding: Linear::build(builder.sub("emb_layers.1"), embedding_channels, Start::Default),
            out_norm: GroupNorm::build(builder.sub("out_layers.0"), outputs),
            out_conv: Conv2d::build(builder.sub("out_layers.3"), [outputs, outputs], 3, 1, Start::Zero),
            skip: (inputs != outputs)
                .then(|| Conv2d::build(builder.sub("skip_connection"), channels, 1, 1, Start::Default)),
            resample,
            use_scale_shift_norm: spec.use_scale_shift_norm,
            rescale_residual: spec.rescale_residual,
            dropout: spec.dropout,
        }
    }

    /// `[batch, in, height, width]` to `[batch, out, ...]` at the block's output resolution. The input is passed twice:
    /// for the residual branch and for the skip connection.
    pub fn forward(&self, context: &Context<'_>, [x, skip_input]: [&Tensor; 2]) -> Tensor {
        let Context { kernels, params, .. } = *context;
        let hidden = self.resample.forward(&self.in_norm.forward_silu(kernels, params, x));
        let hidden = self.in_conv.forward(kernels, params, &hidden);
        let embedding = self.embedding.forward(params, context.embedding);
        let dropout = self.dropout(context);
        let hidden = if self.use_scale_shift_norm {
            let parts = embedding.chunk(2, 1);
            self.out_norm.forward_in_block(kernels, params, &hidden, Some((&parts[0], &parts[1])), dropout)
        } else {
            let hidden = &hidden + embedding.to_kind(hidden.kind()).unsqueeze(-1).unsqueeze(-1);
            self.out_norm.forward_in_block(kernels, params, &hidden, None, dropout)
        };
        let mut hidden = self.out_conv.forward(kernels, params, &hidden);
        let skip = self.resample.forward(skip_input);
        // In place, because the output of a convolution is not saved for backward and has no other reader.
        let sum = match &self.skip {
            Some(conv) => hidden.g_add_(&conv.forward(kernels, params, &skip)),
            None => hidden.g_add_(&skip),
        };
        if self.rescale_residual { rescale(sum) } else { sum }
    }

    /// Returns the dropout of this block in this pass. The mask is the same whenever the block is recomputed.
    fn dropout(&self, context: &Context<'_>) -> Option<Dropout> {
        let seed = context.dropout_seed.filter(|_| self.dropout > 0.0)?;
        let position = self.in_norm.first_param().0 as u64;
        Some(Dropout { probability: self.dropout, seed: Philox::new(seed, Stream::Dropout, position).next_u64() })
    }
}

impl ResBlock {
    /// Returns the memory saved for backward for one image of `size` pixels square.
    fn memory(&self, size: i64, mode: ExecutionMode) -> LayerMemory {
        let (pixels, out) = (size * size, self.resample.output_size(size).pow(2));
        let (inputs, outputs) = (self.in_conv.inputs(), self.out_conv.inputs());
        let in_norm = mode.norm(&self.in_norm, pixels, mode.half, false, true);
        let out_norm = mode.norm(&self.out_norm, out, mode.half, self.use_scale_shift_norm, true);
        let is_down = self.resample == Resample::Down;
        // Pooling saves its inputs: the normalized map, and the input of the skip connection.
        let pooled = if is_down { mode.torso(inputs * pixels) } else { 0 };
        let between = if out_norm.keeps_input { mode.torso(outputs * out) } else { 0 };
        let mask = if self.dropout > 0.0 { mode.mask(outputs * out) } else { 0 };
        let convolved = mode.torso(inputs * out) + mode.torso(outputs * out);
        LayerMemory {
            name: String::new(),
            input_bytes: mode.torso(inputs * pixels),
            keeps_input: in_norm.keeps_input || is_down || self.skip.is_some(),
            inner_bytes: in_norm.inner_bytes + pooled + between + out_norm.inner_bytes + mask + convolved,
            backward_bytes: mode.backward((inputs * pixels).max(inputs.max(outputs) * out)),
            can_checkpoint: true,
        }
    }
}

/// A layer of a block.
#[derive(Debug, Clone)]
pub enum Layer {
    /// A convolution: the first layer of the network, or resampling without `resblock_updown`.
    Conv(Conv2d, Resample),
    /// A residual block.
    Res(Box<ResBlock>),
    /// Attention.
    Attention(AttentionBlock),
}

impl Layer {
    /// Runs the layer on `[batch, channels, height, width]`.
    ///
    /// # Panics
    /// If libtorch reports an error, as tch's operations do.
    pub fn forward(&self, context: &Context<'_>, x: &Tensor) -> Tensor {
        self.forward_branches(context, [x, x])
    }

    /// Runs the layer with the input passed twice: for the residual branch and for the skip connection. Only residual
    /// blocks use the second.
    fn forward_branches(&self, context: &Context<'_>, [x, skip_input]: [&Tensor; 2]) -> Tensor {
        if !context.recomputes || matches!(self, Self::Conv(..)) {
            return self.run(context, [x, skip_input]);
        }
        let (layer, kernels, params) = (self.clone(), context.kernels.clone(), context.params.clone());
        let dropout_seed = context.dropout_seed;
        let body = move |x: &Tensor, embedding: &Tensor| {
            layer.run(
                &Context { kernels: &kernels, params: &params, embedding, dropout_seed, recomputes: false },
                [x, x],
            )
        };
        ops::recompute(x, context.embedding, body).unwrap_or_else(|error| panic!("{error}"))
    }

    fn run(&self, context: &Context<'_>, [x, skip_input]: [&Tensor; 2]) -> Tensor {
        match self {
            // Upsampling comes before the convolution. Downsampling is the stride of the convolution.
            Self::Conv(conv, Resample::Up) => conv.forward(context.kernels, context.params, &Resample::Up.forward(x)),
            Self::Conv(conv, _) => conv.forward(context.kernels, context.params, x),
            Self::Res(block) => block.forward(context, [x, skip_input]),
            Self::Attention(block) => block.forward(context.kernels, context.params, x),
        }
    }

    /// Returns the FLOPs for one image of `size` pixels square, and the size of the output.
    pub fn flops(&self, size: i64) -> (u64, i64) {
        match self {
            Self::Conv(conv, resample) => {
                let out = resample.output_size(size);
                (conv.flops(out), out)
            }
            Self::Res(block) => {
                let out = block.resample.output_size(size);
                let skip = block.skip.as_ref().map_or(0, |conv| conv.flops(out));
                (block.in_conv.flops(out) + block.embedding.flops(1) + block.out_conv.flops(out) + skip, out)
            }
            Self::Attention(block) => (block.flops(size), size),
        }
    }
}

impl Layer {
    /// Returns the memory saved for backward for one image of `size` pixels square, and the size of the output.
    fn memory(&self, size: i64, mode: ExecutionMode) -> (LayerMemory, i64) {
        match self {
            Self::Conv(conv, resample) => {
                let out = resample.output_size(size);
                let input = mode.torso(conv.inputs() * size * size);
                // Upsampling comes first, and the convolution saves its output.
                let is_up = *resample == Resample::Up;
                let memory = LayerMemory {
                    name: String::new(),
                    input_bytes: input,
                    keeps_input: !is_up,
                    inner_bytes: if is_up { mode.torso(conv.inputs() * out * out) } else { 0 },
                    backward_bytes: mode.backward(conv.inputs() * size.max(out).pow(2)),
                    can_checkpoint: false,
                };
                (memory, out)
            }
            Self::Res(block) => (block.memory(size, mode), block.resample.output_size(size)),
            Self::Attention(block) => (block.memory(size, mode), size),
        }
    }
}

/// A block: a sequence of layers.
pub type Block = Vec<Layer>;

/// Runs a block on `[batch, channels, height, width]`.
pub fn forward(block: &[Layer], context: &Context<'_>, x: &Tensor) -> Tensor {
    block.iter().fold(x.shallow_clone(), |x, layer| layer.forward(context, &x))
}

/// Runs a block of the upward path on the concatenation of the previous output `x` and `from_down`, an output of the
/// downward path. Both are `[batch, channels, height, width]`.
///
/// # Panics
/// If libtorch reports an error, as tch's operations do.
pub fn forward_joined(block: &[Layer], context: &Context<'_>, x: &Tensor, from_down: &Tensor) -> Tensor {
    let [joined, skip_input] = ops::concatenate_twice(x, from_down).unwrap_or_else(|error| panic!("{error}"));
    match block {
        [first, rest @ ..] => forward(rest, context, &first.forward_branches(context, [&joined, &skip_input])),
        [] => joined,
    }
}

/// Returns the FLOPs of a block for one image of `size` pixels square, and the size of the output.
pub fn flops(block: &[Layer], size: i64) -> (u64, i64) {
    block.iter().fold((0, size), |(sum, size), layer| {
        let (flops, out) = layer.flops(size);
        (sum + flops, out)
    })
}

/// Adds the memory that the blocks `name.0`, `name.1`, ... save for backward for one image to `layers`, and returns the
/// size of the output.
pub fn memory(name: &str, blocks: &[Block], size: i64, mode: ExecutionMode, layers: &mut Vec<LayerMemory>) -> i64 {
    let all =
        blocks.iter().enumerate().flat_map(|(i, block)| block.iter().enumerate().map(move |(j, layer)| (i, j, layer)));
    all.fold(size, |size, (i, j, layer)| {
        let (memory, out) = layer.memory(size, mode);
        layers.push(LayerMemory { name: format!("{name}.{i}.{j}"), ..memory });
        out
    })
}

/// Builds the downward path, `input_blocks`, and returns it with the channels of each block's output.
pub fn build_down(builder: &mut Builder<'_>, spec: &BlockSpec, in_channels: i64) -> (Vec<Block>, Vec<i64>) {
    let mut torso = builder.torso();
    let mut channels = spec.width(0);
    let first = Conv2d::build(torso.sub("input_blocks.0.0"), [in_channels, channels], 3, 1, Start::Default);
    let mut blocks = vec![vec![Layer::Conv(first, Resample::Same)]];
    let mut widths = vec![channels];
    let mut factor = 1;
    for level in 0..spec.channel_mult.len() {
        for _ in 0..spec.num_res_blocks {
            let mut sub = torso.sub("input_blocks");
            let mut sub = sub.sub(blocks.len());
            let res = ResBlock::build(sub.sub(0), spec, [channels, spec.width(level)], Resample::Same);
            channels = spec.width(level);
            let mut block = vec![Layer::Res(Box::new(res))];
            if spec.attention_factors.contains(&factor) {
                block.push(spec.attention(sub.sub(1), channels));
            }
            blocks.push(block);
            widths.push(channels);
        }
        if level + 1 < spec.channel_mult.len() {
            let mut sub = torso.sub("input_blocks");
            let mut sub = sub.sub(blocks.len());
            let down = if spec.resblock_updown {
                Layer::Res(Box::new(ResBlock::build(sub.sub(0), spec, [channels; 2], Resample::Down)))
            } else {
                Layer::Conv(Conv2d::build(sub.sub("0.op"), [channels; 2], 3, 2, Start::Default), Resample::Down)
            };
            blocks.push(vec![down]);
            widths.push(channels);
            factor *= 2;
        }
    }
    (blocks, widths)
}

/// Builds the middle block: residual, attention, residual.
pub fn build_middle(builder: &mut Builder<'_>, spec: &BlockSpec, channels: i64) -> Block {
    let mut torso = builder.torso();
    let mut middle = torso.sub("middle_block");
    let first = ResBlock::build(middle.sub(0), spec, [channels; 2], Resample::Same);
    let attention = spec.attention(middle.sub(1), channels);
    let second = ResBlock::build(middle.sub(2), spec, [channels; 2], Resample::Same);
    vec![Layer::Res(Box::new(first)), attention, Layer::Res(Box::new(second))]
}

/// Builds the upward path, `output_blocks`. `widths` are the channels of the outputs of the downward path, which the
/// blocks consume from the last to the first.
pub fn build_up(builder: &mut Builder<'_>, spec: &BlockSpec, mut widths: Vec<i64>) -> Vec<Block> {
    let mut torso = builder.torso();
    let mut channels = spec.width(spec.channel_mult.len() - 1);
    let mut factor = 1 << (spec.channel_mult.len() - 1);
    let mut blocks: Vec<Block> = Vec::new();
    for level in (0..spec.channel_mult.len()).rev() {
        for index in 0..=spec.num_res_blocks {
            let mut sub = torso.sub("output_blocks");
            let mut sub = sub.sub(blocks.len());
            let inputs = channels + widths.pop().unwrap_or(0);
            let res = ResBlock::build(sub.sub(0), spec, [inputs, spec.width(level)], Resample::Same);
            channels = spec.width(level);
            let mut block = vec![Layer::Res(Box::new(res))];
            if spec.attention_factors.contains(&factor) {
                block.push(spec.attention(sub.sub(1), channels));
            }
            if level > 0 && index == spec.num_res_blocks {
                let mut last = sub.sub(block.len());
                block.push(if spec.resblock_updown {
                    Layer::Res(Box::new(ResBlock::build(last, spec, [channels; 2], Resample::Up)))
                } else {
                    let conv = Conv2d::build(last.sub("conv"), [channels; 2], 3, 1, Start::Default);
                    Layer::Conv(conv, Resample::Up)
                });
                factor /= 2;
            }
            blocks.push(block);
        }
    }
    blocks
}
