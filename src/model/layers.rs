//! Layers with parameters. `build` registers the parameters under the names of the released checkpoints. `forward`
//! looks up their values in [`Params`].

use tch::{Kind, Tensor};

use crate::ops::{self, Dropout, Kernels};

use super::params::{Init, ParamId, ParamSpec, ParamSpecs, Params};

/// The number of groups of every group normalization.
pub const NUM_GROUPS: i64 = 32;
/// The term that group normalization adds to the variance.
const EPSILON: f64 = 1e-5;

/// Registers parameters under the prefix of a module.
#[derive(Debug)]
pub struct Builder<'a> {
    specs: &'a mut ParamSpecs,
    prefix: String,
    torso: bool,
}

impl<'a> Builder<'a> {
    /// Creates a builder for the top of a network, with an empty prefix.
    pub fn new(specs: &'a mut ParamSpecs) -> Self {
        Self { specs, prefix: String::new(), torso: false }
    }

    /// Returns a builder for the submodule `name`.
    pub fn sub(&mut self, name: impl std::fmt::Display) -> Builder<'_> {
        Builder { prefix: format!("{}{name}.", self.prefix), specs: self.specs, torso: self.torso }
    }

    /// Returns a builder whose convolutions belong to the torso, which has half precision in mixed-precision training.
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

/// The initialization of a weight and its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The default of libtorch for linear and convolution layers: uniform in ±`1 / sqrt(fan_in)`.
    Default,
    /// Zero, so that a residual block starts as the identity.
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
    /// Registers `weight [out, in, kernel, kernel]` and `bias [out]`. `channels` is `[in, out]`.
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
        let (weight, bias) = (params.get(self.weight), params.get(self.bias));
        params.probed(self.weight, x, |x| match params.transformed(self.weight) {
            Some(transformed) if !x.requires_grad() => {
                ops::conv2d_transformed(kernels, x, [weight, transformed], bias, self.stride, self.padding)
            }
            _ => ops::conv2d(kernels, x, weight, bias, self.stride, self.padding),
        })
    }

    /// Returns the type of the weights: a half type in a half-precision torso.
    pub fn kind(&self, params: &Params) -> Kind {
        params.get(self.weight).kind()
    }

    /// Returns the number of input channels.
    pub fn inputs(&self) -> i64 {
        self.inputs
    }

    /// Returns the FLOPs for one image with an output of `size` pixels square.
    pub fn flops(&self, size: i64) -> u64 {
        2 * self.macs_per_pixel * (size * size) as u64
    }
}

/// A linear layer over the last dimension. In the released checkpoints, the linear layers of attention are convolutions
/// of width 1, with a third dimension in their weights.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: ParamId,
    bias: ParamId,
    outputs: i64,
    inputs: i64,
}

impl Linear {
    /// Registers `weight [out, in]` and `bias [out]`. `channels` is `[in, out]`.
    pub fn build(mut builder: Builder<'_>, channels: [i64; 2], start: Start) -> Self {
        let [inputs, outputs] = channels;
        let init = start.init(inputs);
        let weight = builder.param("weight", &[outputs, inputs], init);
        Self { weight, bias: builder.param("bias", &[outputs], init), outputs, inputs }
    }

    /// Registers `weight [out, in, 1]` and `bias [out]`, as part of the torso if the builder is. `channels` is
    /// `[in, out]`.
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
        params.probed(self.weight, x, |x| x.linear(&weight, Some(params.get(self.bias))))
    }

    /// Returns `[in, out]`, the lengths of an input and an output vector.
    pub fn channels(&self) -> [i64; 2] {
        [self.inputs, self.outputs]
    }

    /// Returns the FLOPs for `rows` vectors.
    pub fn flops(&self, rows: i64) -> u64 {
        2 * (self.outputs * self.inputs * rows) as u64
    }
}

/// Group normalization in float32, optionally followed by modulation, SiLU and dropout.
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

    /// Returns the arguments of the normalization alone.
    fn arguments<'a>(&self, params: &'a Params) -> ops::GroupNorm<'a> {
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

    /// Normalizes `[batch, channels, ...]`.
    pub fn forward(&self, kernels: &Kernels, params: &Params, x: &Tensor) -> Tensor {
        self.run(kernels, params, x, &self.arguments(params))
    }

    /// Normalizes `[batch, channels, ...]`, then applies SiLU.
    pub fn forward_silu(&self, kernels: &Kernels, params: &Params, x: &Tensor) -> Tensor {
        self.run(kernels, params, x, &ops::GroupNorm { silu: true, ..self.arguments(params) })
    }

    /// Normalizes `[batch, channels, ...]`, then applies SiLU and dropout. With `modulation`, scale and shift `[batch,
    /// channels]`, this is adaptive group normalization (the paper's section 3.1).
    pub fn forward_in_block(
        &self,
        kernels: &Kernels,
        params: &Params,
        x: &Tensor,
        modulation: Option<(&Tensor, &Tensor)>,
        dropout: Option<Dropout>,
    ) -> Tensor {
        let arguments = ops::GroupNorm { modulation, silu: true, dropout, ..self.arguments(params) };
        self.run(kernels, params, x, &arguments)
    }

    fn run(&self, kernels: &Kernels, params: &Params, x: &Tensor, arguments: &ops::GroupNorm<'_>) -> Tensor {
        params.probed(self.weight, x, |x| ops::group_norm_silu(kernels, x, arguments))
    }

    /// Returns the number of channels.
    pub fn channels(&self) -> i64 {
        self.channels
    }

    /// Returns the ID of the first parameter.
    pub fn first_param(&self) -> ParamId {
        self.weight
    }
}
