//! The layers that hold parameters. Building one registers its parameters under the released names; running one
//! looks their values up.

use tch::{Kind, Tensor};

use crate::ops::{self, Dropout, Kernels};

use super::params::{Init, ParamId, ParamSpec, ParamSpecs, Params};

/// Groups of every group normalisation.
pub const NUM_GROUPS: i64 = 32;
const EPSILON: f64 = 1e-5;

/// Registers parameters under a prefix, as nested modules do.
#[derive(Debug)]
pub struct Builder<'a> {
    specs: &'a mut ParamSpecs,
    prefix: String,
    torso: bool,
}

impl<'a> Builder<'a> {
    /// Starts at the top of a network.
    pub fn new(specs: &'a mut ParamSpecs) -> Self {
        Self { specs, prefix: String::new(), torso: false }
    }

    /// A builder for the submodule `name`.
    pub fn sub(&mut self, name: impl std::fmt::Display) -> Builder<'_> {
        Builder { prefix: format!("{}{name}.", self.prefix), specs: self.specs, torso: self.torso }
    }

    /// A builder whose convolutions belong to the torso, which mixed precision keeps in half.
    pub fn torso(&mut self) -> Builder<'_> {
        Builder { prefix: self.prefix.clone(), specs: self.specs, torso: true }
    }

    /// Registers one parameter.
    pub fn param(&mut self, name: &str, shape: &[i64], init: Init) -> ParamId {
        self.param_in(name, shape, init, false)
    }

    fn param_in(&mut self, name: &str, shape: &[i64], init: Init, torso: bool) -> ParamId {
        self.specs.add(ParamSpec { name: format!("{}{name}", self.prefix), shape: shape.to_vec(), torso, init })
    }
}

/// How a weight with its bias starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// libtorch's default for linear and convolution layers: uniform within `1 / sqrt(fan_in)`.
    Default,
    /// Zero, so that a residual branch begins as the identity.
    Zero,
}

impl Start {
    fn init(self, fan_in: i64) -> Init {
        match self {
            Self::Default => Init::Uniform { bound: 1.0 / (fan_in as f64).sqrt() },
            Self::Zero => Init::Zeros,
        }
    }
}

/// A square 2-d convolution with bias and "same" padding.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: ParamId,
    bias: ParamId,
    stride: i64,
    padding: i64,
    inputs: i64,
    macs_per_pixel: u64,
}

impl Conv2d {
    /// Registers `weight [out, in, kernel, kernel]` and `bias [out]`.
    pub fn build(mut builder: Builder<'_>, channels: [i64; 2], kernel: i64, stride: i64, start: Start) -> Self {
        let [inputs, outputs] = channels;
        let init = start.init(inputs * kernel * kernel);
        let torso = builder.torso;
        Self {
            weight: builder.param_in("weight", &[outputs, inputs, kernel, kernel], init, torso),
            bias: builder.param_in("bias", &[outputs], init, torso),
            stride,
            padding: kernel / 2,
            inputs,
            macs_per_pixel: (inputs * outputs * kernel * kernel) as u64,
        }
    }

    /// `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`.
    pub fn forward(&self, kernels: &Kernels, params: &Params, x: &Tensor) -> Tensor {
        ops::conv2d(kernels, x, params.get(self.weight), params.get(self.bias), self.stride, self.padding)
    }

    /// The type of the weights: half in a half-precision torso.
    pub fn kind(&self, params: &Params) -> Kind {
        params.get(self.weight).kind()
    }

    /// Channels of the input.
    pub fn inputs(&self) -> i64 {
        self.inputs
    }

    /// FLOPs for one image whose output is `size` pixels square.
    pub fn flops(&self, size: i64) -> u64 {
        2 * self.macs_per_pixel * (size * size) as u64
    }
}

/// A matrix product with bias over the last dimension. The released checkpoints keep attention's as convolutions of
/// width 1, whose weights have a third dimension.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: ParamId,
    bias: ParamId,
    outputs: i64,
    inputs: i64,
}

impl Linear {
    /// Registers `weight [out, in]` and `bias [out]`.
    pub fn build(mut builder: Builder<'_>, channels: [i64; 2], start: Start) -> Self {
        let [inputs, outputs] = channels;
        let init = start.init(inputs);
        let weight = builder.param("weight", &[outputs, inputs], init);
        Self { weight, bias: builder.param("bias", &[outputs], init), outputs, inputs }
    }

    /// Registers `weight [out, in, 1]` and `bias [out]`, of the torso where the builder says so.
    pub fn build_width_one(mut builder: Builder<'_>, channels: [i64; 2], start: Start) -> Self {
        let [inputs, outputs] = channels;
        let init = start.init(inputs);
        let torso = builder.torso;
        let weight = builder.param_in("weight", &[outputs, inputs, 1], init, torso);
        Self { weight, bias: builder.param_in("bias", &[outputs], init, torso), outputs, inputs }
    }

    /// `[..., in]` to `[..., out]`.
    pub fn forward(&self, params: &Params, x: &Tensor) -> Tensor {
        let weight = params.get(self.weight).view([self.outputs, self.inputs]);
        x.linear(&weight, Some(params.get(self.bias)))
    }

    /// Length of a vector that goes in, and of one that comes out.
    pub fn widths(&self) -> [i64; 2] {
        [self.inputs, self.outputs]
    }

    /// FLOPs for `rows` vectors.
    pub fn flops(&self, rows: i64) -> u64 {
        2 * (self.outputs * self.inputs * rows) as u64
    }
}

/// Group normalisation in float32 and the SiLU that may follow.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: ParamId,
    bias: ParamId,
    channels: i64,
}

impl GroupNorm {
    /// Registers `weight [channels]` and `bias [channels]`.
    pub fn build(mut builder: Builder<'_>, channels: i64) -> Self {
        let weight = builder.param("weight", &[channels], Init::Ones);
        Self { weight, bias: builder.param("bias", &[channels], Init::Zeros), channels }
    }

    /// The normalisation of these values, without what may follow.
    fn plain<'a>(&self, params: &'a Params) -> ops::GroupNorm<'a> {
        ops::GroupNorm {
            num_groups: NUM_GROUPS,
            weight: params.get(self.weight),
            bias: params.get(self.bias),
            eps: EPSILON,
            modulation: None,
            silu: false,
            dropout: None,
        }
    }

    /// Normalises `[batch, channels, ...]`.
    pub fn forward(&self, kernels: &Kernels, params: &Params, x: &Tensor) -> Tensor {
        ops::group_norm_silu(kernels, x, &self.plain(params))
    }

    /// Normalises, then SiLU.
    pub fn forward_silu(&self, kernels: &Kernels, params: &Params, x: &Tensor) -> Tensor {
        ops::group_norm_silu(kernels, x, &ops::GroupNorm { silu: true, ..self.plain(params) })
    }

    /// Adaptive group normalisation (the paper's section 3.1) where there are scale and shift `[batch, channels]`, then
    /// SiLU, then dropout.
    pub fn forward_in_block(
        &self,
        kernels: &Kernels,
        params: &Params,
        x: &Tensor,
        modulation: Option<(&Tensor, &Tensor)>,
        dropout: Option<Dropout>,
    ) -> Tensor {
        ops::group_norm_silu(kernels, x, &ops::GroupNorm { modulation, silu: true, dropout, ..self.plain(params) })
    }

    /// Channels that it normalises.
    pub fn channels(&self) -> i64 {
        self.channels
    }

    /// The place of its first parameter in the network.
    pub fn place(&self) -> ParamId {
        self.weight
    }
}
