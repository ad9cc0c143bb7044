//! The optimizer update of flat memory in one pass: AdamW, all EMAs and the half-precision copy.

use tch::{Kind, Tensor};

use super::launcher::{GpuLauncher, address, gpu_kind};
use super::{Error, Kernels, bridge};

pub use admiral_gpu::adam::AdamHyper;

/// The flat tensors of an [`adam`] update, `[length]` each. All except `gradient` are updated in place.
#[derive(Debug)]
pub struct AdamSegment<'a> {
    /// The float32 parameters.
    pub master: &'a Tensor,
    /// The moving average of gradients, float32.
    pub mean: &'a Tensor,
    /// The moving average of squared gradients, float32.
    pub variance: &'a Tensor,
    /// The gradient, float32 or a half kind.
    pub gradient: &'a Tensor,
    /// The rates and values of the exponential moving averages of `master`, float32.
    pub emas: &'a [(f64, &'a Tensor)],
    /// The half-precision copy of `master` that the network computes with.
    pub half: Option<&'a Tensor>,
}

/// Performs one AdamW update of a segment, then updates its EMAs (`ema * rate + master * (1 - rate)`) and its half
/// copy.
///
/// # Errors
/// If a tensor is not flat and contiguous, differs from `master` in length or device, or has a kind that
/// [`AdamSegment`] does not allow: [`Error::Unsuitable`]. If a kernel launch or libtorch fails.
pub fn adam(kernels: &Kernels, segment: &AdamSegment<'_>, hyper: &AdamHyper) -> Result<(), Error> {
    check(segment)?;
    let _no_grad = tch::no_grad_guard();
    match segment.master.device() {
        device if kernels.is_cpu(device) => run_cpu_kernel(segment, hyper),
        device => match kernels.gpu(device) {
            Some(launcher) => run_gpu_kernel(launcher, segment, hyper),
            None => run_libtorch(segment, hyper),
        },
    }
}

fn check(segment: &AdamSegment<'_>) -> Result<(), Error> {
    const FLOAT: &[Kind] = &[Kind::Float];
    const HALF: &[Kind] = &[Kind::Half, Kind::BFloat16];
    const ANY: &[Kind] = &[Kind::Float, Kind::Half, Kind::BFloat16];
    let mut all = vec![
        ("master", segment.master, FLOAT),
        ("mean", segment.mean, FLOAT),
        ("variance", segment.variance, FLOAT),
        ("gradient", segment.gradient, ANY),
    ];
    all.extend(segment.emas.iter().map(|(_, ema)| ("ema", *ema, FLOAT)));
    all.extend(segment.half.map(|half| ("half", half, HALF)));
    let (length, device) = (segment.master.numel(), segment.master.device());
    for (name, tensor, kinds) in all {
        let suitable = tensor.size() == [length as i64]
            && tensor.is_contiguous()
            && tensor.device() == device
            && kinds.contains(&tensor.kind());
        if !suitable {
            return Err(Error::Unsuitable {
                operation: "adam",
                tensor: name,
                found: format!("{:?} {:?} on {:?}", tensor.kind(), tensor.size(), tensor.device()),
                expected: format!("contiguous {kinds:?} [{length}] on {device:?}"),
            });
        }
    }
    Ok(())
}

/// Runs the update in the CPU kernel, which reads and writes each value once.
fn run_cpu_kernel(segment: &AdamSegment<'_>, hyper: &AdamHyper) -> Result<(), Error> {
    let kind = |tensor: &Tensor| bridge::kernel_kind(tensor.kind()).unwrap_or_default();
    let memory = bridge::AdamMemory {
        master: segment.master.data_ptr(),
        mean: segment.mean.data_ptr(),
        variance: segment.variance.data_ptr(),
        gradient: segment.gradient.data_ptr(),
        gradient_kind: kind(segment.gradient),
        half: segment.half.map_or(std::ptr::null_mut(), Tensor::data_ptr),
        half_kind: segment.half.map(kind).unwrap_or_default(),
    };
    let averages: Vec<bridge::Average> = segment
        .emas
        .iter()
        .map(|(rate, ema)| bridge::Average { ema: ema.data_ptr(), rate: *rate as f32, rest: (1.0 - rate) as f32 })
        .collect();
    // SAFETY: `check` verified lengths, kinds, layout and device. The tensors outlive the call, and no other code
    // accesses the memory of a segment during its update.
    unsafe { bridge::adam(&memory, &hyper.into(), &averages, segment.master.numel()) }
}

/// Enqueues the update in the GPU kernel.
fn run_gpu_kernel(launcher: &GpuLauncher, segment: &AdamSegment<'_>, hyper: &AdamHyper) -> Result<(), Error> {
    let kind_and_address = |tensor: &Tensor| Some((gpu_kind(tensor.kind())?, address(tensor)));
    let gradient = kind_and_address(segment.gradient).ok_or_else(|| Error::Unsuitable {
        operation: "adam",
        tensor: "gradient",
        found: format!("{:?}", segment.gradient.kind()),
        expected: "float32 or a half kind".into(),
    })?;
    let memory = admiral_gpu::adam::AdamMemory {
        length: segment.master.numel(),
        master: address(segment.master),
        mean: address(segment.mean),
        variance: address(segment.variance),
        gradient,
        half: segment.half.and_then(kind_and_address),
        averages: segment.emas.iter().map(|(rate, ema)| (*rate, address(ema))).collect(),
    };
    // SAFETY: `check` verified lengths, kinds, layout and device. libtorch frees and writes this memory on the same
    // stream, after the kernel.
    unsafe { admiral_gpu::adam::adam(launcher.launch(), &memory, hyper, None)? };
    Ok(())
}

/// Performs the update with libtorch's operations, for devices without a kernel.
fn run_libtorch(segment: &AdamSegment<'_>, hyper: &AdamHyper) -> Result<(), Error> {
    let AdamHyper { learning_rate, beta1, beta2, epsilon, weight_decay, step, gradient_scale } = *hyper;
    let correction1 = 1.0 - beta1.powf(step as f64);
    let correction2 = 1.0 - beta2.powf(step as f64);
    let gradient = segment.gradient.f_to_kind(Kind::Float)?.f_mul_scalar(gradient_scale)?;
    // In-place operations of tch need mutable handles. Shallow clones share the memory.
    let mut master = segment.master.shallow_clone();
    let mut mean = segment.mean.shallow_clone();
    let mut variance = segment.variance.shallow_clone();
    if weight_decay != 0.0 {
        let _ = master.f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
    }
    let _ = mean.f_lerp_(&gradient, 1.0 - beta1)?;
    let _ = variance.f_mul_scalar_(beta2)?.f_addcmul_(&(&gradient * (1.0 - beta2)), &gradient)?;
    let denominator = variance.f_sqrt()?.f_div_scalar(correction2.sqrt())?.f_add_scalar(epsilon)?;
    let _ = master.f_addcdiv_(&(&mean * (-learning_rate / correction1)), &denominator)?;
    for (rate, ema) in segment.emas {
        let mut ema = ema.shallow_clone();
        let _ = ema.f_mul_scalar_(*rate)?.f_add_(&master.f_mul_scalar(1.0 - rate)?)?;
    }
    if let Some(half) = segment.half {
        half.shallow_clone().f_copy_(&master)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::Device;

    use super::*;
    use crate::emulator::Emulator;

    fn random(n: i64) -> Tensor {
        Tensor::randn([n], (Kind::Float, Device::Cpu))
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
    }

    /// Compares three updates by `update` with float64 arithmetic. Returns the largest error of each tensor, relative
    /// to its largest value.
    fn errors(
        update: impl Fn(&AdamSegment<'_>, &AdamHyper) -> Result<(), Error>,
        n: i64,
        gradient_kind: Kind,
        half_kind: Option<Kind>,
    ) -> Vec<f64> {
        tch::manual_seed(7);
        let (master, mean, variance) = (random(n), random(n) * 0.1, random(n).square() * 0.01);
        let emas = [(0.9, random(n)), (0.9999, random(n))];
        let half = half_kind.map(|kind| master.to_kind(kind));
        let mut expected = [values(&master), values(&mean), values(&variance), values(&emas[0].1), values(&emas[1].1)];
        for step in 1..=3u64 {
            let gradient = random(n).to_kind(gradient_kind);
            let hyper = AdamHyper {
                learning_rate: 1e-2,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.05,
                step,
                gradient_scale: 0.25,
            };
            let borrowed: Vec<(f64, &Tensor)> = emas.iter().map(|(rate, ema)| (*rate, ema)).collect();
            let segment = AdamSegment {
                master: &master,
                mean: &mean,
                variance: &variance,
                gradient: &gradient,
                emas: &borrowed,
                half: half.as_ref(),
            };
            update(&segment, &hyper).unwrap();
            let correction1 = 1.0 - 0.9f64.powi(step as i32);
            let correction2 = 1.0 - 0.999f64.powi(step as i32);
            for (i, g) in values(&gradient).iter().map(|g| g * 0.25).enumerate() {
                let [p, m, v, ema0, ema1] = &mut expected;
                p[i] *= 1.0 - 1e-2 * 0.05;
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                p[i] -= 1e-2 / correction1 * m[i] / ((v[i] / correction2).sqrt() + 1e-8);
                ema0[i] = ema0[i] * 0.9 + p[i] * 0.1;
                ema1[i] = ema1[i] * 0.9999 + p[i] * (1.0 - 0.9999);
            }
        }
        if let Some(half) = &half {
            assert_eq!(
                values(half),
                values(&master.to_kind(half_kind.unwrap())),
                "the half copy is the rounded master"
            );
        }
        let found = [values(&master), values(&mean), values(&variance), values(&emas[0].1), values(&emas[1].1)];
        let largest = |x: &[f64]| x.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        let relative = |(e, f): (&Vec<f64>, &Vec<f64>)| {
            let difference: Vec<f64> = e.iter().zip(f).map(|(e, f)| e - f).collect();
            largest(&difference) / largest(e)
        };
        expected.iter().zip(&found).map(relative).collect()
    }

    #[test]
    fn cpu_kernel_and_libtorch_match_the_formula() {
        for n in [1, 7, 64, 1001, 70_003] {
            for (gradient, half) in [
                (Kind::Float, None),
                (Kind::Half, Some(Kind::Half)),
                (Kind::BFloat16, Some(Kind::BFloat16)),
                (Kind::Float, Some(Kind::Half)),
            ] {
                for error in errors(|segment, hyper| adam(&Kernels::cpu(), segment, hyper), n, gradient, half) {
                    assert!(error < 1e-6, "n {n}, gradient {gradient:?}, half {half:?}: {error}");
                }
                for error in errors(run_libtorch_without_gradients, n, gradient, half) {
                    assert!(error < 1e-6, "by libtorch, n {n}, gradient {gradient:?}: {error}");
                }
            }
        }
    }

    /// Runs the source of the GPU kernel on the CPU.
    #[test]
    fn gpu_kernel_matches_the_formula() {
        let launcher = GpuLauncher::new(Emulator::new(1));
        for n in [7, 1001] {
            for (gradient, half) in
                [(Kind::Float, None), (Kind::Half, Some(Kind::Half)), (Kind::BFloat16, Some(Kind::BFloat16))]
            {
                let update = |segment: &AdamSegment<'_>, hyper: &AdamHyper| run_gpu_kernel(&launcher, segment, hyper);
                for error in errors(update, n, gradient, half) {
                    assert!(error < 1e-6, "n {n}, gradient {gradient:?}, half {half:?}: {error}");
                }
            }
        }
    }

    fn run_libtorch_without_gradients(segment: &AdamSegment<'_>, hyper: &AdamHyper) -> Result<(), Error> {
        tch::no_grad(|| run_libtorch(segment, hyper))
    }

    #[test]
    fn fused_adamw_of_libtorch_matches_the_formula() {
        let by_libtorch = |segment: &AdamSegment<'_>, hyper: &AdamHyper| {
            let _no_grad = tch::no_grad_guard();
            let gradient = segment.gradient * hyper.gradient_scale;
            bridge::torch_fused_adamw(segment.master, &gradient, segment.mean, segment.variance, hyper)
        };
        let errors = errors(by_libtorch, 1001, Kind::Float, None);
        assert!(errors[..3].iter().all(|&error| error < 1e-6), "{errors:?}");
    }

    #[test]
    fn tensors_of_another_length_are_refused() {
        let (a, b) = (random(4), random(5));
        let segment = AdamSegment { master: &a, mean: &a, variance: &a, gradient: &b, emas: &[], half: None };
        let hyper = AdamHyper {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: 1,
            gradient_scale: 1.0,
        };
        let error = adam(&Kernels::cpu(), &segment, &hyper).unwrap_err().to_string();
        assert!(error.contains("`gradient`") && error.contains("[4]"), "{error}");
    }
}
