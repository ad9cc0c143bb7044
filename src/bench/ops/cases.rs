//! What is measured: the optimizer's pass, group normalization, convolution, attention.

use tch::{Device, Kind, Tensor};

use crate::bench::timing::{Rules, case, ratio, time_in_turn};
use crate::ops::{self, AdamHyper, AdamSegment, Error, GroupNorm, Kernels, bridge};
use crate::statistics::Spread;

use super::measured::{FLOAT, Measured};

const GROUPS: i64 = 32;

/// The shapes of group normalization: `[batch, channels, size, size]` of the paper's 64 and 256 models.
pub(super) const NORM_SHAPES: [[i64; 3]; 7] =
    [[4, 192, 64], [4, 384, 32], [4, 576, 16], [4, 768, 8], [1, 256, 256], [1, 512, 64], [1, 1024, 16]];

/// The shapes of 3x3 convolutions on a CPU, `[batch, channels, size, size]` of the demo's network, one of 64 channels,
/// and the 64 and 256 models.
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

/// AdamW and one EMA over `length` values, against libtorch's fused AdamW and a pass of `lerp_` over the EMA.
pub(super) fn adam(kernels: &Kernels, length: i64, rules: Rules) -> Result<Measured, Error> {
    // Both sides work on the same memory.
    let options = (Kind::Float, rules.device);
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
    let seconds = time_in_turn(
        &mut [
            case(|| ops::adam(kernels, &segment, &hyper)),
            case(|| {
                let _no_grad = tch::no_grad_guard();
                bridge::torch_fused_adamw(&master, &gradient, &mean, &variance, &hyper)?;
                let _ = ema.shallow_clone().f_lerp_(&master, 1.0 - rate)?;
                Ok(())
            }),
        ],
        rules,
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

/// Forward and backward of the fused node against libtorch's two operations, each side in its better layout.
pub(super) fn group_norm(kernels: &Kernels, shape: [i64; 3], kind: Kind, rules: Rules) -> Result<Measured, Error> {
    let [batch, channels, size] = shape;
    let lay = |x: &Tensor, last: bool| if last { channels_last(x) } else { x.contiguous() };
    let [x, dy] = [(); 2].map(|()| random(&[batch, channels, size, size], kind, rules.device));
    let parameter = |value: f64| Tensor::full([channels], value, (Kind::Float, rules.device)).set_requires_grad(true);
    let (weight, bias) = (parameter(1.0), parameter(0.0));
    let layouts =
        [true, false].map(|channels_last| (lay(&x, channels_last).set_requires_grad(true), lay(&dy, channels_last)));
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
    // Beside an input in a half kind libtorch takes float32 parameters on the CPU, as the fused node does; on a GPU the
    // published code computes in float32 and casts both ways.
    let casts = rules.device.is_cuda() && kind != Kind::Float;
    let composed = |(x, dy): &(Tensor, Tensor)| {
        let input = if casts { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() };
        let out = input.f_group_norm(GROUPS, Some(&weight), Some(&bias), 1e-5, true)?.f_silu()?.f_to_kind(kind)?;
        differentiate(&out, x, dy)
    };
    const NAMES: [&str; 2] = ["channels-last", "contiguous"];
    let seconds = time_in_turn(
        &mut [
            case(|| fused(&layouts[0])),
            case(|| fused(&layouts[1])),
            case(|| composed(&layouts[0])),
            case(|| composed(&layouts[1])),
        ],
        rules,
    )?;
    let spreads: Vec<Spread> = seconds.iter().map(|seconds| Spread::of(seconds.iter().copied())).collect();
    let faster = |first: usize| first + usize::from(spreads[first + 1].median < spreads[first].median);
    let (own, others) = (faster(0), faster(2));
    // Forward reads x and writes y; backward reads x and dy and writes dx.
    let bytes = 5 * batch * channels * size * size * if kind == Kind::Float { 4 } else { 2 };
    Ok(Measured {
        operation: "GroupNorm and SiLU, both ways",
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

/// Forward and backward of a 3x3 convolution of channels-last maps in float32, against libtorch's with its weights laid
/// channels-last beforehand.
pub(super) fn convolution(kernels: &Kernels, shape: [i64; 3], rules: Rules) -> Result<Measured, Error> {
    let [batch, channels, size] = shape;
    let [x, dy] = [(); 2].map(|()| channels_last(&random(&[batch, channels, size, size], Kind::Float, rules.device)));
    let x = x.set_requires_grad(true);
    let weight = random(&[channels, channels, 3, 3], Kind::Float, rules.device);
    let laid_out = channels_last(&weight).set_requires_grad(true);
    let weight = weight.set_requires_grad(true);
    let bias = Tensor::zeros([channels], (Kind::Float, rules.device)).set_requires_grad(true);
    let seconds = time_in_turn(
        &mut [
            case(|| {
                bridge::gradients(&ops::conv2d(kernels, &x, &weight, &bias, 1, 1), &dy, &[&x, &weight, &bias]).map(drop)
            }),
            case(|| {
                let out = x.f_conv2d(&laid_out, Some(&bias), [1, 1], [1, 1], [1, 1], 1)?;
                bridge::gradients(&out, &dy, &[&x, &laid_out, &bias]).map(drop)
            }),
        ],
        rules,
    )?;
    Ok(Measured {
        operation: "3x3 convolution, both ways",
        case: format!("[{batch}, {channels}, {size}, {size}]"),
        kind: FLOAT,
        seconds: Spread::of(seconds[0].iter().copied()),
        bytes: None,
        in_place: false,
        // By the definition, of which Winograd's algorithm does 16 parts of 36.
        flops: Some(3 * 2 * 9 * (batch * size * size * channels * channels) as u64),
        against: Some("libtorch's".into()),
        ratio: Some(ratio(&seconds[1], &seconds[0])),
    })
}

/// Forward and backward of attention on views of a joint projection, as the model has them.
pub(super) fn attention(shape: [i64; 3], kind: Kind, rules: Rules) -> Result<Measured, Error> {
    const HEAD: i64 = 64;
    let [batch, length, channels] = shape;
    let qkv = random(&[batch, length, 3 * channels], kind, rules.device).set_requires_grad(true);
    let gradient = random(&[batch, length, channels], kind, rules.device);
    let work = || {
        let parts = qkv.f_view([batch, length, channels / HEAD, 3, HEAD])?.f_permute([3, 0, 2, 1, 4])?.f_unbind(0)?;
        let out = ops::attention(&parts[0], &parts[1], &parts[2]);
        let out = out.f_transpose(1, 2)?.f_reshape([batch, length, channels])?;
        bridge::gradients(&out, &gradient, &[&qkv]).map(drop)
    };
    let seconds = time_in_turn(&mut [case(work)], rules)?;
    Ok(Measured {
        operation: "Attention, both ways",
        case: format!("batch {batch}, {length} positions, {channels} channels"),
        kind: name_of(kind),
        seconds: Spread::of(seconds[0].iter().copied()),
        bytes: None,
        in_place: false,
        // Two products forward, and twice that backward.
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
