//! L2 norms of flat tensors.

use admiral_gpu::norms::{Finish, StepControl, finish, num_partials};
use tch::{Device, Kind, Tensor};

use super::launcher::{GpuLauncher, address, gpu_kind};
use super::{Error, Kernels, bridge};

/// Returns the sum of squares of a tensor of any shape and floating kind. Values are accumulated in float64, in an
/// order that does not depend on the number of threads. If a value is NaN or infinite, the result is too.
#[must_use]
pub fn sum_of_squares(kernels: &Kernels, tensor: &Tensor) -> f64 {
    let _no_grad = tch::no_grad_guard();
    let flat = tensor.reshape([-1]).contiguous();
    if let (true, Some(kind)) = (kernels.is_cpu(flat.device()), bridge::kernel_kind(flat.kind())) {
        // SAFETY: `flat` is contiguous CPU memory of this kind and outlives the call.
        if let Ok(sum) = unsafe { bridge::sum_of_squares(flat.data_ptr(), kind, flat.numel()) } {
            return sum;
        }
    }
    libtorch_sum_of_squares(&flat).double_value(&[])
}

/// Computes the L2 norm of all `gradients` and the L2 norm of all `parameters`, `[2]`, float64, on their device. All
/// tensors are flat, contiguous and on the same device. On a GPU the kernels are only enqueued; reading the result
/// waits for them.
///
/// # Errors
/// If a kernel launch or libtorch fails, or a tensor on a GPU is unsuitable.
pub fn norms(kernels: &Kernels, gradients: &[Tensor], parameters: &[&Tensor]) -> Result<Tensor, Error> {
    let _no_grad = tch::no_grad_guard();
    let gradients: Vec<&Tensor> = gradients.iter().collect();
    match gradients.first().map_or(Device::Cpu, |first| first.device()) {
        Device::Cpu => {
            let norm =
                |tensors: &[&Tensor]| tensors.iter().map(|flat| sum_of_squares(kernels, flat)).sum::<f64>().sqrt();
            Ok(Tensor::from_slice(&[norm(&gradients), norm(parameters)]))
        }
        device => match kernels.gpu(device) {
            Some(launcher) => run_gpu_kernels(launcher, &gradients, parameters),
            None => {
                let norm = |tensors: &[&Tensor]| {
                    let sums: Vec<Tensor> = tensors.iter().map(|flat| libtorch_sum_of_squares(flat)).collect();
                    Ok::<_, Error>(Tensor::f_stack(&sums, 0)?.f_sum(Kind::Double)?.f_sqrt()?)
                };
                Ok(Tensor::f_stack(&[norm(&gradients)?, norm(parameters)?], 0)?)
            }
        },
    }
}

fn libtorch_sum_of_squares(flat: &Tensor) -> Tensor {
    flat.to_kind(Kind::Double).square().sum(Kind::Double)
}

/// Computes partial sums of each tensor, one array for the gradients and one for the parameters, then adds both in one
/// kernel.
fn run_gpu_kernels(launcher: &GpuLauncher, gradients: &[&Tensor], parameters: &[&Tensor]) -> Result<Tensor, Error> {
    let options = (Kind::Double, gradients[0].device());
    let partial_sums = |tensors: &[&Tensor]| -> Result<(Tensor, usize), Error> {
        let kinds = tensors.iter().map(|flat| gpu_kind(flat.kind()).ok_or_else(|| unsuitable(flat)));
        let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
        let lengths: Vec<usize> =
            kinds.iter().zip(tensors).map(|(kind, flat)| num_partials(*kind, flat.numel())).collect();
        let total: usize = lengths.iter().sum();
        let partials = Tensor::f_empty([total as i64], options)?;
        let mut output = address(&partials);
        for ((kind, flat), length) in kinds.iter().zip(tensors).zip(lengths) {
            if !flat.is_contiguous() {
                return Err(unsuitable(flat));
            }
            // SAFETY: the memory is contiguous and of this kind and length, and `partials` has room for the sums of
            // each tensor. libtorch frees both on the same stream.
            unsafe {
                admiral_gpu::norms::sum_of_squares(launcher.launch(), *kind, address(flat), flat.numel(), output)?;
            }
            output += (length * size_of::<f64>()) as u64;
        }
        Ok((partials, total))
    };
    let (gradient_partials, num_gradients) = partial_sums(gradients)?;
    let (parameter_partials, num_parameters) = partial_sums(parameters)?;
    let control = Tensor::f_zeros([(size_of::<StepControl>() / size_of::<f64>()) as i64], options)?;
    let sums = Finish {
        gradient_partials: (address(&gradient_partials), num_gradients),
        parameter_partials: (address(&parameter_partials), num_parameters),
        control: address(&control),
        gradient_scale: 1.0,
        // Unused: the host computes the update's factors from the norms, because it knows the loss scale.
        clip_norm: 0.0,
        learning_rate: 0.0,
        beta1: 0.0,
        beta2: 0.0,
    };
    // SAFETY: the addresses are valid for the given lengths, and libtorch frees the memory on the same stream.
    unsafe { finish(launcher.launch(), &sums)? };
    // The norms are the first two fields of a `StepControl`.
    Ok(control.f_narrow(0, 0, 2)?)
}

fn unsuitable(flat: &Tensor) -> Error {
    Error::Unsuitable {
        operation: "norms",
        tensor: "gradient or parameter",
        found: format!("{:?} with strides {:?}", flat.kind(), flat.stride()),
        expected: "contiguous, float32 or a half kind".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::emulator::Emulator;

    /// The size of the bridge's partial sums, `kChunk` in flat.cpp. The tests use several.
    const CHUNK: i64 = 65_536;

    #[test]
    fn sums_are_in_double_precision_over_several_chunks() {
        let n = 3 * CHUNK + 7;
        let x = Tensor::full([n], 0.1f32 as f64, (Kind::Float, Device::Cpu));
        let wanted = n as f64 * (0.1f32 as f64).powi(2);
        assert!((sum_of_squares(&Kernels::cpu(), &x) / wanted - 1.0).abs() < 1e-12);
        let half = x.to_kind(Kind::Half);
        let wanted = n as f64 * half.double_value(&[0]).powi(2);
        assert!((sum_of_squares(&Kernels::cpu(), &half) / wanted - 1.0).abs() < 1e-12);
        assert_eq!(sum_of_squares(&Kernels::cpu(), &Tensor::zeros([0], (Kind::Float, Device::Cpu))), 0.0);
    }

    #[test]
    fn the_sum_does_not_depend_on_the_number_of_threads() {
        tch::manual_seed(3);
        let x = Tensor::randn([5 * CHUNK + 3], (Kind::Float, Device::Cpu));
        let threads = tch::get_num_threads();
        tch::set_num_threads(1);
        let one = sum_of_squares(&Kernels::cpu(), &x);
        tch::set_num_threads(3);
        let three = sum_of_squares(&Kernels::cpu(), &x);
        tch::set_num_threads(threads);
        assert_eq!(one.to_bits(), three.to_bits());
    }

    #[test]
    fn infinity_and_nan_reach_the_sum() {
        let mut values = vec![1.0f32; 20_000];
        values[17_000] = f32::INFINITY;
        assert_eq!(sum_of_squares(&Kernels::cpu(), &Tensor::from_slice(&values)), f64::INFINITY);
        values[3] = f32::NAN;
        assert!(sum_of_squares(&Kernels::cpu(), &Tensor::from_slice(&values)).is_nan());
    }

    fn random(n: i64, kind: Kind) -> Tensor {
        Tensor::randn([n], (Kind::Float, Device::Cpu)).to_kind(kind)
    }

    #[test]
    fn norms_include_all_tensors() {
        tch::manual_seed(9);
        let gradients = [random(40_000, Kind::Half), random(77, Kind::Float), random(1, Kind::BFloat16)];
        let parameters = [random(5, Kind::Float), random(3000, Kind::Float)];
        let parameters: Vec<&Tensor> = parameters.iter().collect();
        let plain = |tensors: &[&Tensor]| {
            tensors.iter().map(|flat| libtorch_sum_of_squares(flat).double_value(&[])).sum::<f64>().sqrt()
        };
        let wanted = [plain(&gradients.iter().collect::<Vec<_>>()), plain(&parameters)];
        // The source of the GPU kernels, run on the CPU.
        let launcher = GpuLauncher::new(Emulator::new(2));
        let by_gpu = run_gpu_kernels(&launcher, &gradients.iter().collect::<Vec<_>>(), &parameters).unwrap();
        for found in [norms(&Kernels::cpu(), &gradients, &parameters).unwrap(), by_gpu] {
            for (wanted, found) in wanted.iter().zip(Vec::<f64>::try_from(&found).unwrap()) {
                assert!((found / wanted - 1.0).abs() < 1e-12, "{found}, not {wanted}");
            }
        }
    }

    #[test]
    fn infinity_and_nan_reach_the_norm_on_a_gpu() {
        let launcher = GpuLauncher::new(Emulator::new(2));
        for bad in [f64::INFINITY, f64::NAN] {
            let gradient = random(9000, Kind::Half);
            let _ = gradient.get(8999).fill_(bad);
            let found = run_gpu_kernels(&launcher, &[&gradient], &[]).unwrap();
            assert!(!found.double_value(&[0]).is_finite());
            assert_eq!(found.double_value(&[1]), 0.0);
        }
    }
}
