//! The measured cases: the optimizer's pass, group normalization, convolution and attention.

use tch::{Device, Kind, Tensor};

use crate::bench::timing::{Timing, case, ratio, time_alternating};
use crate::ops::{self, AdamHyper, AdamSegment, Error, GroupNorm, Kernels, bridge};
use crate::statistics::Spread;

use super::measured::{FLOAT, Measured};

const GROUPS: i64 = 32;

/// The shapes of group normalization in the paper's 64 and 256 models: batch, channels, size of
/// `[batch, channels, size, size]`.
pub(super) const NORM_SHAPES: [[i64; 3]; 7] =
    [[4, 192, 64], [4, 384, 32], [4, 576, 16], [4, 768, 8], [1, 256, 256], [1, 512, 64], [1, 1024, 16]];

/// The shapes of 3x3 convolutions on a CPU, in the demo's network, in one with 64 channels, and in the 64 and 256
/// models: batch, channels, size of `[batch, channels, size, size]`.
pub(super) const CONVOLUTION_SHAPES: [[i64; 3]; 7] =
    [[32, 32, 32], [16, 64, 32], [16, 128, 16], [4, 192, 64], [4, 384, 32], [4, 576, 16], [1, 256, 128]];

/// The shapes of attention in the 64 model: batch, length, channels, in heads of 64.
pub(super) const ATTENTION_SHAPES: [[i64; 3]; 3] = [[1, 1024, 384], [4, 256, 576], [4, 64, 768]];

fn random(shape: &[i64], kind: Kind, device: Device) -> Tensor {
    Tensor::randn(shape, (Kind::Float, device)).to_kind(kind)
}

fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Times AdamW with one EMA over `length` values, against libtorch's fused AdamW and a pass of `lerp_` over the EMA.
pub(super) fn adam(kernels: &Kernels, length: i64, timing: Timing) -> Result<Measured, Error> {
    // Both alternatives work on the same memory.
    let options = (Kind::Float, timing.device);
    let [master, mean, variance, ema] = [(); 4].map(|()| Tensor::zeros([length], options));
    let gradient = Tensor::full([length], 1e-3, options);
    let rate = 0.9999;
    let emas = [(rate, &ema)];
    let segment =
        AdamSegment { master: &master, mean: &mean, variance: &variance, gradient: &gradient, emas: &emas, half: None };
    let hyper = AdamHyper {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        step: 1000,
        gradient_scale: 1.0,
    };
    let seconds = time_alternating(
        &mut [
            case(|| ops::adam(kernels, &segment, &hyper)),
            case(|| {
                let _no_grad = tch::no_grad_guard();
                bridge::torch_fused_adamw(&master, &gradient, &mean, &variance, &hyper)?;
                let _ = ema.shallow_clone().f_lerp_(&master, 1.0 - rate)?;
                Ok(())
            }),
        ],
        timing,
    )?;
    // Read and written: master, mean, variance, EMA; read: the gradient.
    Ok(Measured {
        operation: "Adam and EMA",
        case: format!("{length} values"),
        kind: FLOAT,
        seconds: Spread::of(seconds[0].iter().copied()),
        bytes: Some(36 * length as u64),
        in_place: true,
        flops: None,
        against: Some("libtorch's fused AdamW, then lerp_".into()),
        ratio: Some(ratio(&seconds[1], &seconds[0])),
    })
}

/// Times forward and backward of the fused operation against libtorch's two operations, each in its faster layout.
pub(super) fn group_norm(kernels: &Kernels, shape: [i64; 3], kind: Kind, timing: Timing) -> Result<Measured, Error> {
    let [batch, channels, size] = shape;
    let with_layout = |x: &Tensor, last: bool| if last { channels_last(x) } else { x.contiguous() };
    let [x, dy] = [(); 2].map(|()| random(&[batch, channels, size, size], kind, timing.device));
    let parameter = |value: f64| Tensor::full([channels], value, (Kind::Float, timing.device)).set_requires_grad(true);
    let (weight, bias) = (parameter(1.0), parameter(0.0));
    let layouts = [true, false]
        .map(|channels_last| (with_layout(&x, channels_last).set_requires_grad(true), with_layout(&dy, channels_last)));
    let norm = GroupNorm {
        num_groups: GROUPS,
        weight: &weight,
        bias: &bias,
        eps: 1e-5,
        modulation: None,
        silu: true,
        dropout: None,
    };
    let differentiate =
        |out: &Tensor, x: &Tensor, dy: &Tensor| bridge::gradients(out, dy, &[x, &weight, &bias]).map(drop);
    let fused = |(x, dy): &(Tensor, Tensor)| differentiate(&ops::group_norm_silu(kernels, x, &norm), x, dy);
    // With a half-precision input on the CPU, libtorch accepts float32 parameters, as the fused operation does. On a
    // GPU the published code computes in float32 and casts the input and the output.
    let casts = timing.device.is_cuda() && kind != Kind::Float;
    let composed = |(x, dy): &(Tensor, Tensor)| {
        let input = if casts { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() };
        let out = input.f_group_norm(GROUPS, Some(&weight), Some(&bias), 1e-5, true)?.f_silu()?.f_to_kind(kind)?;
        differentiate(&out, x, dy)
    };
    const NAMES: [&str; 2] = ["channels-last", "contiguous"];
    let seconds = time_alternating(
        &mut [
            case(|| fused(&layouts[0])),
            case(|| fused(&layouts[1])),
            case(|| composed(&layouts[0])),
            case(|| composed(&layouts[1])),
        ],
        timing,
    )?;
    let spreads: Vec<Spread> = seconds.iter().map(|seconds| Spread::of(seconds.iter().copied())).collect();
    let faster = |first: usize| first + usize::from(spreads[first + 1].median < spreads[first].median);
    let (own, others) = (faster(0), faster(2));
    // Forward reads x and writes y; backward reads x and dy and writes dx.
    let bytes = 5 * batch * channels * size * size * if kind == Kind::Float { 4 } else { 2 };
    Ok(Measured {
        operation: "GroupNorm and SiLU, forward and backward",
        case: format!("[{batch}, {channels}, {size}, {size}] {}", NAMES[own]),
        kind: name_of(kind),
        seconds: spreads[own],
        bytes: Some(bytes as u64),
        in_place: false,
        flops: None,
        against: Some(format!(
            "libtorch's two{}, {}",
            if casts { " in float32 with casts" } else { "" },
            NAMES[others - 2]
        )),
        ratio: Some(ratio(&seconds[others], &seconds[own])),
    })
}

/// Times forward and backward of a 3x3 convolution of channels-last tensors in float32, against libtorch's convolution,
/// whose weights are channels-last already.
pub(super) fn convolution(kernels: &Kernels, shape: [i64; 3], timing: Timing) -> Result<Measured, Error> {
    let [batch, channels, size] = shape;
    let [x, dy] = [(); 2].map(|()| channels_last(&random(&[batch, channels, size, size], Kind::Float, timing.device)));
    let x = x.set_requires_grad(true);
    let weight = random(&[channels, channels, 3, 3], Kind::Float, timing.device);
    let laid_out = channels_last(&weight).set_requires_grad(true);
    let weight = weight.set_requires_grad(true);
    let bias = Tensor::zeros([channels], (Kind::Float, timing.device)).set_requires_grad(true);
    let seconds = time_alternating(
        &mut [
            case(|| {
                bridge::gradients(&ops::conv2d(kernels, &x, &weight, &bias, 1, 1), &dy, &[&x, &weight, &bias]).map(drop)
            }),
            case(|| {
                let out = x.f_conv2d(&laid_out, Some(&bias), [1, 1], [1, 1], [1, 1], 1)?;
                bridge::gradients(&out, &dy, &[&x, &laid_out, &bias]).map(drop)
            }),
        ],
        timing,
    )?;
    Ok(Measured {
        operation: "3x3 convolution, forward and backward",
        case: format!("[{batch}, {channels}, {size}, {size}]"),
        kind: FLOAT,
        seconds: Spread::of(seconds[0].iter().copied()),
        bytes: None,
        in_place: false,
        // The FLOPs of the definition. Winograd's algorithm does 16/36 of them.
        flops: Some(3 * 2 * 9 * (batch * size * size * channels * channels) as u64),
        against: Some("libtorch's".into()),
        ratio: Some(ratio(&seconds[1], &seconds[0])),
    })
}

/// Times forward and backward of attention on views of a joint projection, as in the model.
pub(super) fn attention(shape: [i64; 3], kind: Kind, timing: Timing) -> Result<Measured, Error> {
    const HEAD: i64 = 64;
    let [batch, length, channels] = shape;
    let qkv = random(&[batch, length, 3 * channels], kind, timing.device).set_requires_grad(true);
    let gradient = random(&[batch, length, channels], kind, timing.device);
    let work = || {
        let parts = qkv.f_view([batch, length, channels / HEAD, 3, HEAD])?.f_permute([3, 0, 2, 1, 4])?.f_unbind(0)?;
        let out = ops::attention(&parts[0], &parts[1], &parts[2]);
        let out = out.f_transpose(1, 2)?.f_reshape([batch, length, channels])?;
        bridge::gradients(&out, &gradient, &[&qkv]).map(drop)
    };
    let seconds = time_alternating(&mut [case(work)], timing)?;
    Ok(Measured {
        operation: "Attention, forward and backward",
        case: format!("batch {batch}, {length} positions, {channels} channels"),
        kind: name_of(kind),
        seconds: Spread::of(seconds[0].iter().copied()),
        bytes: None,
        in_place: false,
        // Two products forward and four backward.
        flops: Some(3 * 4 * (batch * length * length * channels) as u64),
        against: None,
        ratio: None,
    })
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => FLOAT,
    }
}
