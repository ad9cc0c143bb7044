//! Group normalization, fused with the operations that follow it in a residual block.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::launcher::GpuLauncher;
use super::{Error, GroupNorm, Kernels, bridge};

/// Group normalization, followed by modulation, SiLU and dropout.
///
/// `x` is `[batch, channels, height, width]` or `[batch, channels, length]` of any floating kind. The parameters may
/// have another kind. The computation is in float32, or float64 if `x` is float64. The result has the kind and layout
/// of `x`.
///
/// In float32 and the half kinds this is a single autograd node, on the CPU and on GPUs for which our kernels compile.
/// It saves only `x` and the group statistics for backward. It accepts channels-last without a copy; on the CPU
/// libtorch's kernel is many times slower for channels-last if a group has few channels. The dropout masks of CPU and
/// GPU differ.
pub fn group_norm_silu(kernels: &Kernels, x: &Tensor, norm: &GroupNorm<'_>) -> Tensor {
    let device = x.device();
    let fits = |tensor: &Tensor| group_norm_is_fused(tensor.kind(), tensor.device()) && tensor.device() == device;
    let mut tensors =
        [x, norm.weight, norm.bias].into_iter().chain(norm.modulation.into_iter().flat_map(|(a, b)| [a, b]));
    if tensors.all(fits) {
        let fused = match kernels.gpu(device) {
            Some(launcher) => run_gpu_kernels(launcher, x, norm),
            None => kernels.is_cpu(device).then(|| bridge::group_norm_silu(x, norm)),
        };
        match fused {
            Some(Ok(out)) => return out,
            // On the CPU libtorch's operations below then fail too, with tch's error message. On a GPU they replace a
            // kernel that does not compile or launch. They are slower, so the first failure is a warning.
            Some(Err(error)) => {
                if device.is_cuda() && kernels.is_first_warning() {
                    tracing::warn!(%error, "libtorch's group normalization runs in place of our own kernel");
                } else {
                    tracing::debug!(%error);
                }
            }
            None => {}
        }
    }
    composed(x, norm)
}

/// Creates the node on a GPU. Returns `None` if the GPU kernels do not support the arguments.
fn run_gpu_kernels(launcher: &Arc<GpuLauncher>, x: &Tensor, norm: &GroupNorm<'_>) -> Option<Result<Tensor, Error>> {
    let fits = x.numel() > 0 && (norm.silu || norm.dropout.is_none());
    fits.then(|| bridge::group_norm_gpu(launcher, x, norm))
}

/// Whether [`group_norm_silu`] is a single autograd node for this kind and device, provided that fused kernels are
/// enabled and the GPU kernels compile. Memory estimates depend on it, because it determines what forward saves for
/// backward.
#[must_use]
pub fn group_norm_is_fused(kind: Kind, device: Device) -> bool {
    bridge::kernel_kind(kind).is_some() && matches!(device, Device::Cpu | Device::Cuda(_))
}

/// The same computation with libtorch's operations: for other kinds and devices, and for comparison.
fn composed(x: &Tensor, norm: &GroupNorm<'_>) -> Tensor {
    let kind = if x.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let (weight, bias) = (norm.weight.to_kind(kind), norm.bias.to_kind(kind));
    let mut h = x.to_kind(kind).group_norm(norm.num_groups, Some(weight), Some(bias), norm.eps, true);
    if let Some((scale, shift)) = norm.modulation {
        let mut shape = vec![1; x.dim()];
        shape[..2].copy_from_slice(&x.size()[..2]);
        h = h * (scale.to_kind(kind).reshape(&shape) + 1) + shift.to_kind(kind).reshape(&shape);
    }
    if norm.silu {
        h = h.silu();
    }
    if let Some(dropout) = norm.dropout {
        h = h.multiply(&dropout.mask(x));
    }
    h.to_kind(x.kind())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Dropout;
    use super::*;
    use crate::emulator::Emulator;

    #[derive(Clone, Copy, Debug)]
    enum Layout {
        Contiguous,
        ChannelsLast,
        /// Neither contiguous nor channels-last: every second column of a wider tensor.
        Strided,
    }

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Double, Device::Cpu))
    }

    fn with_layout(x: &Tensor, layout: Layout) -> Tensor {
        match layout {
            Layout::Contiguous => x.contiguous(),
            Layout::ChannelsLast => x.transpose(1, -1).contiguous().transpose(1, -1),
            Layout::Strided => Tensor::stack(&[x, x], -1).flatten(-2, -1).slice(-1, 0, None, 2),
        }
    }

    /// Returns the output and the gradients of x, weight, bias, scale and shift, float64. `inputs` are x, weight, bias
    /// and optionally scale and shift.
    fn run(
        f: impl Fn(&Tensor, &GroupNorm<'_>) -> Tensor,
        norm: Shape,
        inputs: &[Tensor],
        gradient: &Tensor,
    ) -> Vec<Tensor> {
        let leaves: Vec<Tensor> = inputs.iter().map(|x| x.detach().set_requires_grad(true)).collect();
        let out = f(&leaves[0], &norm.on(&leaves));
        (&out * gradient.to_kind(out.kind())).sum(out.kind()).backward();
        let mut all = vec![out.detach()];
        all.extend(leaves.iter().map(Tensor::grad));
        all.into_iter().map(|x| x.to_kind(Kind::Double)).collect()
    }

    /// A normalization without its tensors.
    #[derive(Clone, Copy, Debug)]
    struct Shape {
        num_groups: i64,
        silu: bool,
        dropout: Option<Dropout>,
    }

    impl Shape {
        /// Returns the arguments with these tensors: x (unused), weight, bias and optionally scale and shift.
        fn on(self, tensors: &[Tensor]) -> GroupNorm<'_> {
            let Self { num_groups, silu, dropout } = self;
            let modulation = tensors.get(3).map(|scale| (scale, &tensors[4]));
            GroupNorm { num_groups, weight: &tensors[1], bias: &tensors[2], eps: 1e-5, modulation, silu, dropout }
        }
    }

    fn fused(x: &Tensor, norm: &GroupNorm<'_>) -> Tensor {
        bridge::group_norm_silu(x, norm).unwrap()
    }

    /// Returns the outputs and gradients of libtorch's operations in float64 and of `f`, for random inputs.
    fn both(
        f: impl Fn(&Tensor, &GroupNorm<'_>) -> Tensor,
        norm: Shape,
        shape: &[i64],
        modulated: bool,
        (layout, kind): (Layout, Kind),
    ) -> (Vec<Tensor>, Vec<Tensor>) {
        let (batch, channels) = (shape[0], shape[1]);
        // A mean far from zero reveals cancellation.
        let mut inputs = vec![random(shape) * 2 + 3, random(&[channels]), random(&[channels])];
        if modulated {
            inputs.push(random(&[batch, channels]));
            inputs.push(random(&[batch, channels, 1, 1]));
        }
        inputs[0] = inputs[0].to_kind(kind).to_kind(Kind::Double);
        let gradient = random(shape).to_kind(kind).to_kind(Kind::Double);
        let mut single: Vec<Tensor> = inputs.iter().map(|x| x.to_kind(Kind::Float)).collect();
        single[0] = with_layout(&single[0].to_kind(kind), layout);
        (run(composed, norm, &inputs, &gradient), run(f, norm, &single, &gradient))
    }

    /// Returns the largest difference relative to the largest value.
    fn error(wanted: &Tensor, found: &Tensor) -> f64 {
        assert_eq!(wanted.size(), found.size());
        let scale = wanted.abs().max().double_value(&[]).max(1e-3);
        (wanted - found).abs().max().double_value(&[]) / scale
    }

    /// The rounding error of the output and of the gradient of `x`, which are rounded to `kind`.
    fn tolerance(kind: Kind) -> f64 {
        match kind {
            Kind::BFloat16 => 1.0 / 256.0,
            Kind::Half => 1.0 / 2048.0,
            _ => 1e-5,
        }
    }

    #[test]
    fn cpu_node_and_gradients_match_libtorch_in_double_precision() {
        tch::manual_seed(5);
        for (shape, num_groups) in [
            (vec![3, 6, 5, 7], 3),
            (vec![2, 64, 9, 9], 32),
            (vec![1, 96, 33, 31], 32),
            (vec![2, 1056, 3, 2], 32),
            (vec![2, 32, 1, 1], 2),
            (vec![3, 40, 70, 1], 8),
            // Several pieces for each sample in the channels-last layout.
            (vec![2, 64, 64, 51], 32),
        ] {
            for (case, dropout) in (0..12).zip([None, Some(Dropout { probability: 0.3, seed: 11 })].iter().cycle()) {
                let (silu, modulated) = (case / 2 % 2 == 0, case / 4 % 2 == 0);
                let layout = [Layout::Contiguous, Layout::ChannelsLast, Layout::Strided][case % 3];
                for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
                    let norm = Shape { num_groups, silu, dropout: *dropout };
                    let (wanted, found) = both(fused, norm, &shape, modulated, (layout, kind));
                    for (i, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
                        let error = error(wanted, found);
                        // Sums over positions are float32 in every case.
                        let tolerance = tolerance(if i < 2 { kind } else { Kind::Float });
                        assert!(
                            error < tolerance,
                            "{shape:?} {kind:?} {norm:?} modulated {modulated} {layout:?}, tensor {i}: {error}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn half_precision_parameters_have_gradients_of_their_kind() {
        tch::manual_seed(8);
        let norm = Shape { num_groups: 4, silu: true, dropout: None };
        let half = |shape: &[i64]| random(shape).to_kind(Kind::BFloat16);
        let inputs = [half(&[2, 8, 5, 5]), half(&[8]), half(&[8]), half(&[2, 8]), half(&[2, 8, 1, 1])];
        let double: Vec<Tensor> = inputs.iter().map(|x| x.to_kind(Kind::Double)).collect();
        let gradient = half(&[2, 8, 5, 5]).to_kind(Kind::Double);
        let wanted = run(composed, norm, &double, &gradient);
        for (wanted, found) in
            wanted.iter().zip(run(|x, norm| group_norm_silu(&Kernels::cpu(), x, norm), norm, &inputs, &gradient))
        {
            let error = error(wanted, &found);
            assert!(error < tolerance(Kind::BFloat16), "{error}");
        }
    }

    #[test]
    fn statistics_are_accurate_if_the_first_positions_differ_from_the_rest() {
        tch::manual_seed(9);
        let x = random(&[1, 2, 128, 128]) * 1e-3 + 1e3;
        let _ = x.narrow(2, 0, 40).zero_();
        let norm = Shape { num_groups: 1, silu: false, dropout: None };
        let inputs =
            [x, Tensor::ones([2], (Kind::Double, Device::Cpu)), Tensor::zeros([2], (Kind::Double, Device::Cpu))];
        let single: Vec<Tensor> = inputs.iter().map(|x| x.to_kind(Kind::Float)).collect();
        let wanted = composed(&single[0].to_kind(Kind::Double), &norm.on(&inputs));
        let error = error(&wanted, &fused(&single[0], &norm.on(&single)).to_kind(Kind::Double));
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn the_layout_is_preserved_and_three_dimensions_are_accepted() {
        let x = (random(&[2, 8, 6]) + 1).to_kind(Kind::Float).transpose(1, 2).contiguous().transpose(1, 2);
        let single = [x, random(&[8]).to_kind(Kind::Float), random(&[8]).to_kind(Kind::Float)];
        let norm = Shape { num_groups: 4, silu: true, dropout: None }.on(&single);
        let out = group_norm_silu(&Kernels::cpu(), &single[0], &norm);
        assert_eq!(out.stride(), single[0].stride());
        let error = error(&composed(&single[0], &norm), &out);
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        tch::manual_seed(6);
        let norm = Shape { num_groups: 32, silu: true, dropout: Some(Dropout { probability: 0.1, seed: 4 }) };
        let threads = tch::get_num_threads();
        for (shape, layout, kind) in [
            ([5, 64, 16, 16], Layout::Contiguous, Kind::Float),
            ([1, 64, 96, 96], Layout::ChannelsLast, Kind::Float),
            ([1, 64, 96, 96], Layout::ChannelsLast, Kind::BFloat16),
        ] {
            let inputs = [
                with_layout(&random(&shape).to_kind(kind), layout),
                random(&[64]).to_kind(kind),
                random(&[64]).to_kind(kind),
            ];
            let gradient = random(&shape);
            tch::set_num_threads(1);
            let one = run(fused, norm, &inputs, &gradient);
            tch::set_num_threads(3);
            let three = run(fused, norm, &inputs, &gradient);
            tch::set_num_threads(threads);
            for (one, three) in one.iter().zip(&three) {
                assert!(one.equal(three), "{shape:?} {layout:?} {kind:?}");
            }
        }
    }

    #[test]
    fn nan_reaches_the_whole_group() {
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
            let x = random(&[1, 4, 3, 3]).to_kind(kind);
            let _ = x.view([-1]).get(5).fill_(f64::NAN);
            let ones = Tensor::ones([4], (Kind::Float, Device::Cpu));
            let norm = Shape { num_groups: 2, silu: true, dropout: None };
            let out = group_norm_silu(&Kernels::cpu(), &x, &norm.on(&[x.shallow_clone(), ones.shallow_clone(), ones]));
            assert_eq!(out.isnan().sum(Kind::Int64).int64_value(&[]), 18, "{kind:?}");
        }
    }

    #[test]
    fn invalid_groups_and_dropout_probabilities_are_refused() {
        let x = Tensor::zeros([1, 5, 2, 2], (Kind::Float, Device::Cpu));
        let ones = Tensor::ones([5], (Kind::Float, Device::Cpu));
        let tensors = [x.shallow_clone(), ones.shallow_clone(), ones];
        let refusal = |norm: Shape| bridge::group_norm_silu(&x, &norm.on(&tensors)).unwrap_err().to_string();
        let groups = refusal(Shape { num_groups: 2, silu: false, dropout: None });
        assert!(groups.contains("2 groups do not divide"), "{groups}");
        let all = refusal(Shape { num_groups: 5, silu: false, dropout: Some(Dropout { probability: 1.0, seed: 0 }) });
        assert!(all.contains("not below 1"), "{all}");
    }

    /// Runs the GPU node with the source of the GPU kernels on the CPU.
    fn emulated_gpu(x: &Tensor, norm: &GroupNorm<'_>) -> Tensor {
        let launcher = Arc::new(GpuLauncher::new(Emulator::new(1)));
        run_gpu_kernels(&launcher, x, norm).unwrap().unwrap()
    }

    #[test]
    fn gpu_node_and_gradients_match_libtorch_in_double_precision() {
        tch::manual_seed(12);
        for (shape, num_groups, layout, kind) in [
            (vec![2, 64, 9, 9], 32, Layout::ChannelsLast, Kind::Half),
            (vec![2, 64, 8, 4], 32, Layout::Contiguous, Kind::Float),
            (vec![2, 6, 5, 7], 3, Layout::Strided, Kind::Float),
            (vec![2, 8, 6], 4, Layout::Contiguous, Kind::BFloat16),
        ] {
            for (silu, modulated) in [(true, true), (true, false), (false, true)] {
                let norm = Shape { num_groups, silu, dropout: None };
                let (wanted, found) = both(emulated_gpu, norm, &shape, modulated, (layout, kind));
                for (i, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
                    let (error, tolerance) = (error(wanted, found), tolerance(if i < 2 { kind } else { Kind::Float }));
                    assert!(error < tolerance, "{shape:?} {kind:?} {norm:?} {modulated} {layout:?}, {i}: {error}");
                }
            }
        }
    }

    #[test]
    fn gpu_dropout_uses_the_same_mask_in_forward_and_backward() {
        tch::manual_seed(13);
        let (shape, num_groups, probability) = ([2, 32, 16, 16], 8, 0.25);
        let dropout = |seed| Shape { num_groups, silu: true, dropout: Some(Dropout { probability, seed }) };
        let plain = Shape { num_groups, silu: true, dropout: None };
        let single = [random(&shape), random(&[32]), random(&[32])].map(|x| x.to_kind(Kind::Float));
        let masked = emulated_gpu(&single[0], &dropout(3).on(&single));
        assert!(masked.equal(&emulated_gpu(&single[0], &dropout(3).on(&single))));
        assert!(!masked.equal(&emulated_gpu(&single[0], &dropout(4).on(&single))));
        let mask = masked.detach().ne(0.0).to_kind(Kind::Float) / (1.0 - probability);
        let dropped = mask.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((dropped - probability).abs() < 0.02, "{dropped}");
        // Not the quotient, which is inexact where the output is nearly zero.
        let kept = composed(&single[0], &plain.on(&single)) * &mask;
        assert!((&masked - kept).abs().max().double_value(&[]) < 1e-4);
        let gradient = random(&shape);
        let with_mask = |x: &Tensor, norm: &GroupNorm<'_>| composed(x, norm) * &mask;
        let wanted = run(with_mask, plain, &single, &gradient);
        for (wanted, found) in wanted.iter().zip(run(emulated_gpu, dropout(3), &single, &gradient)) {
            let error = error(wanted, &found);
            assert!(error < 1e-4, "{error}");
        }
    }

    #[test]
    fn a_failed_launch_is_an_error_with_its_reason() {
        let launcher = Arc::new(GpuLauncher::new(FailingLaunch));
        let single = [random(&[1, 4, 3, 3]), random(&[4]), random(&[4])].map(|x| x.to_kind(Kind::Float));
        let norm = Shape { num_groups: 2, silu: true, dropout: None };
        let error = run_gpu_kernels(&launcher, &single[0], &norm.on(&single)).unwrap().unwrap_err().to_string();
        assert!(error.contains("`grid` is lost"), "{error}");
    }

    struct FailingLaunch;

    impl admiral_gpu::Launch for FailingLaunch {
        unsafe fn launch(
            &self,
            _: &admiral_gpu::Program,
            _: &'static str,
            _: &admiral_gpu::Shape,
            _: *const std::ffi::c_void,
            _: usize,
        ) -> Result<(), admiral_gpu::Error> {
            let (found, expected) = ("lost".to_owned(), "there".to_owned());
            Err(admiral_gpu::Error::Unsuitable { operation: "a test", argument: "grid", found, expected })
        }
    }
}
