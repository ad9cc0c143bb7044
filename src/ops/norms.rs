//! Norms of flat memory.

use admiral_gpu::norms::{Finish, StepControl, finish, num_partials};
use tch::{Device, Kind, Tensor};

use super::launcher::{GpuLauncher, address, gpu_kind};
use super::{Error, Kernels, bridge};

/// The sum of squares of a flat tensor of any floating kind, accumulated in float64 in an order that does not depend
/// on the number of threads. A NaN or infinity among the values gives NaN or infinity.
#[must_use]
pub fn sum_of_squares(kernels: &Kernels, tensor: &Tensor) -> f64 {
    let _no_grad = tch::no_grad_guard();
    let flat = tensor.reshape([-1]).contiguous();
    if let (true, Some(kind)) = (kernels.is_cpu(flat.device()), bridge::kernel_kind(flat.kind())) {
        // SAFETY: `flat` is contiguous CPU memory of that kind, alive for the call.
        if let Ok(sum) = unsafe { bridge::sum_of_squares(flat.data_ptr(), kind, flat.numel()) } {
            return sum;
        }
    }
    summed(&flat).double_value(&[])
}

/// The l2 norms of all `gradients` and of all `parameters`, `[2]`, float64, where they lie. All are flat and contiguous,
/// on one device. On a GPU nothing waits for it: the host that reads the result does.
///
/// # Errors
/// What the GPU says.
pub fn norms(kernels: &Kernels, gradients: &[Tensor], parameters: &[&Tensor]) -> Result<Tensor, Error> {
    let _no_grad = tch::no_grad_guard();
    let gradients: Vec<&Tensor> = gradients.iter().collect();
    match gradients.first().map_or(Device::Cpu, |first| first.device()) {
        Device::Cpu => {
            let norm = |of: &[&Tensor]| of.iter().map(|flat| sum_of_squares(kernels, flat)).sum::<f64>().sqrt();
            Ok(Tensor::from_slice(&[norm(&gradients), norm(parameters)]))
        }
        device => match kernels.gpu(device) {
            Some(launcher) => by_gpu_kernels(launcher, &gradients, parameters),
            None => {
                let norm = |of: &[&Tensor]| {
                    let sums: Vec<Tensor> = of.iter().map(|flat| summed(flat)).collect();
                    Ok::<_, Error>(Tensor::f_stack(&sums, 0)?.f_sum(Kind::Double)?.f_sqrt()?)
                };
                Ok(Tensor::f_stack(&[norm(&gradients)?, norm(parameters)?], 0)?)
            }
        },
    }
}

fn summed(flat: &Tensor) -> Tensor {
    flat.to_kind(Kind::Double).square().sum(Kind::Double)
}

/// Partial sums of each tensor, in one row of the gradients' and one of the parameters', and one kernel that adds them.
fn by_gpu_kernels(launcher: &GpuLauncher, gradients: &[&Tensor], parameters: &[&Tensor]) -> Result<Tensor, Error> {
    let options = (Kind::Double, gradients[0].device());
    let row = |of: &[&Tensor]| -> Result<(Tensor, usize), Error> {
        let kinds = of.iter().map(|flat| gpu_kind(flat.kind()).ok_or_else(|| unsuitable(flat)));
        let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
        let lengths: Vec<usize> = kinds.iter().zip(of).map(|(kind, flat)| num_partials(*kind, flat.numel())).collect();
        let total: usize = lengths.iter().sum();
        let partials = Tensor::f_empty([total as i64], options)?;
        let mut place = address(&partials);
        for ((kind, flat), length) in kinds.iter().zip(of).zip(lengths) {
            if !flat.is_contiguous() {
                return Err(unsuitable(flat));
            }
            // SAFETY: contiguous memory of that kind and length, and a row that has room for each one's sums; libtorch
            // frees them on the same stream.
            unsafe {
                admiral_gpu::norms::sum_of_squares(launcher.launch(), *kind, address(flat), flat.numel(), place)?;
            }
            place += (length * size_of::<f64>()) as u64;
        }
        Ok((partials, total))
    };
    let ((of_gradients, num_gradients), (of_parameters, num_parameters)) = (row(gradients)?, row(parameters)?);
    let control = Tensor::f_zeros([(size_of::<StepControl>() / size_of::<f64>()) as i64], options)?;
    let what = Finish {
        gradient_partials: (address(&of_gradients), num_gradients),
        parameter_partials: (address(&of_parameters), num_parameters),
        control: address(&control),
        gradient_scale: 1.0,
        // What follows from the norms is decided by the host, which also knows the loss scale.
        clip_norm: 0.0,
        learning_rate: 0.0,
        beta1: 0.0,
        beta2: 0.0,
    };
    // SAFETY: the addresses hold what is said, and libtorch frees them on the same stream.
    unsafe { finish(launcher.launch(), &what)? };
    // Both norms come first in a `StepControl`.
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

    /// The bridge's unit of summation, so that the tests span several.
    const CHUNK: i64 = 65_536;

    #[test]
    fn sums_in_double_precision_over_several_chunks() {
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
    fn does_not_depend_on_the_number_of_threads() {
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
    fn what_is_not_finite_stays_visible() {
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
    fn both_norms_come_from_all_tensors() {
        tch::manual_seed(9);
        let gradients = [random(40_000, Kind::Half), random(77, Kind::Float), random(1, Kind::BFloat16)];
        let parameters = [random(5, Kind::Float), random(3000, Kind::Float)];
        let parameters: Vec<&Tensor> = parameters.iter().collect();
        let plain = |of: &[&Tensor]| of.iter().map(|flat| summed(flat).double_value(&[])).sum::<f64>().sqrt();
        let wanted = [plain(&gradients.iter().collect::<Vec<_>>()), plain(&parameters)];
        // The GPU's kernels, their text run on the CPU.
        let launcher = GpuLauncher::new(Emulator::new(2));
        let by_gpu = by_gpu_kernels(&launcher, &gradients.iter().collect::<Vec<_>>(), &parameters).unwrap();
        for found in [norms(&Kernels::cpu(), &gradients, &parameters).unwrap(), by_gpu] {
            for (wanted, found) in wanted.iter().zip(Vec::<f64>::try_from(&found).unwrap()) {
                assert!((found / wanted - 1.0).abs() < 1e-12, "{found}, not {wanted}");
            }
        }
    }

    #[test]
    fn the_gpus_norm_of_what_is_not_finite_is_not_finite() {
        let launcher = GpuLauncher::new(Emulator::new(2));
        for bad in [f64::INFINITY, f64::NAN] {
            let gradient = random(9000, Kind::Half);
            let _ = gradient.get(8999).fill_(bad);
            let found = by_gpu_kernels(&launcher, &[&gradient], &[]).unwrap();
            assert!(!found.double_value(&[0]).is_finite());
            assert_eq!(found.double_value(&[1]), 0.0);
        }
    }
}
