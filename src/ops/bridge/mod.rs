//! The Rust side of the C++ bridge: functions of libtorch that tch does not have. The bridge catches C++ exceptions and
//! returns them as [`Error::Bridge`].

mod concatenate;
mod convolve;
mod group_norm_gpu;
mod hooks;
mod profile;
mod recompute;

pub use concatenate::concatenate_twice;
#[cfg(test)]
pub(super) use convolve::uses_winograd;
pub(super) use convolve::{can_convolve, convolve};
pub(super) use group_norm_gpu::group_norm_gpu;
pub use hooks::on_gradient;
pub use profile::{Calls, profile};
pub use recompute::recompute;

use std::ffi::{CStr, c_char, c_int, c_void};

use admiral_gpu::adam::AdamUpdate;
use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use super::{AdamHyper, Error, GroupNorm};

unsafe extern "C" {
    fn admiral_last_error() -> *const c_char;
    fn admiral_instruction_set() -> *const c_char;
    fn admiral_torch_built_with() -> *const c_char;
    fn admiral_torch_config(config: *mut *const c_char) -> c_int;
    fn admiral_allow_tf32(allow: bool) -> c_int;
    fn admiral_current_stream(device: i64, id: *mut i64) -> c_int;
    fn admiral_set_gradient(parameter: *const C_tensor, gradient: *const C_tensor) -> c_int;
    fn admiral_gradients(
        output: *const C_tensor,
        output_gradient: *const C_tensor,
        inputs: *const *const C_tensor,
        num_inputs: i64,
        results: *mut *mut C_tensor,
    ) -> c_int;
    fn admiral_torch_fused_adamw(
        parameter: *const C_tensor,
        gradient: *const C_tensor,
        mean: *const C_tensor,
        variance: *const C_tensor,
        hyper: *const TorchAdamW,
    ) -> c_int;
    fn admiral_group_norm_silu(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        scale: *const C_tensor,
        shift: *const C_tensor,
        num_groups: i64,
        eps: f64,
        silu: bool,
        dropout: f64,
        seed: i64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn admiral_adam(
        memory: *const AdamMemory,
        update: *const AdamUpdate,
        averages: *const Average,
        num_averages: i64,
        length: i64,
    ) -> c_int;
    fn admiral_sum_of_squares(values: *const c_void, kind: i32, length: i64, result: *mut f64) -> c_int;
}

/// Returns the value of a kind in the C++ `Kind`, or `None` if the kernels do not support it.
pub(super) fn kernel_kind(kind: Kind) -> Option<i32> {
    match kind {
        Kind::Float => Some(0),
        Kind::Half => Some(1),
        Kind::BFloat16 => Some(2),
        _ => None,
    }
}

/// The memory of one update. The same layout as `admiral::AdamMemory` in kernels.h.
#[repr(C)]
pub(super) struct AdamMemory {
    pub(super) master: *mut c_void,
    pub(super) mean: *mut c_void,
    pub(super) variance: *mut c_void,
    pub(super) gradient: *const c_void,
    pub(super) gradient_kind: i32,
    pub(super) half: *mut c_void,
    pub(super) half_kind: i32,
}

/// The hyperparameters of libtorch's AdamW. The same layout as `admiral::TorchAdamW` in bridge.cpp.
#[repr(C)]
struct TorchAdamW {
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    step: f64,
}

/// One EMA. The same layout as `AdmiralAverage` in flat.cpp.
#[repr(C)]
pub(super) struct Average {
    pub(super) ema: *mut c_void,
    pub(super) rate: f32,
    pub(super) rest: f32,
}

/// Returns the instruction set of the kernels for this CPU: `baseline`, `avx2`, `avx512` or `avx512_bf16`.
#[must_use]
pub fn instruction_set() -> &'static str {
    // SAFETY: the bridge returns a NUL-terminated ASCII literal.
    unsafe { CStr::from_ptr(admiral_instruction_set()) }.to_str().unwrap_or("unknown")
}

/// Returns the version of the libtorch that this program was compiled with.
#[must_use]
pub fn torch_built_with() -> &'static str {
    // SAFETY: the bridge returns a NUL-terminated ASCII literal.
    unsafe { CStr::from_ptr(admiral_torch_built_with()) }.to_str().unwrap_or("unknown")
}

/// Returns the version of the loaded libtorch, or `None` if its configuration does not include one.
///
/// # Errors
/// If libtorch cannot show its configuration: [`Error::Bridge`].
pub fn torch_loaded() -> Result<Option<String>, Error> {
    let mut config = std::ptr::null();
    // SAFETY: `config` is valid for writing.
    check("torch_config", unsafe { admiral_torch_config(&mut config) })?;
    // SAFETY: on success it is a NUL-terminated string that is valid until the next call on this thread.
    let config = unsafe { CStr::from_ptr(config) }.to_string_lossy();
    let version = config.split_once("TORCH_VERSION=").map(|(_, rest)| rest);
    Ok(version.and_then(|rest| rest.split([',', ' ', '\n']).next()).map(str::to_owned))
}

/// Runs the CPU kernel of the optimizer update.
///
/// # Safety
/// Every pointer of `memory` and `averages` must point to `length` values of its kind that no other code accesses.
pub(super) unsafe fn adam(
    memory: &AdamMemory,
    update: &AdamUpdate,
    averages: &[Average],
    length: usize,
) -> Result<(), Error> {
    // SAFETY: guaranteed by the caller.
    let status = unsafe { admiral_adam(memory, update, averages.as_ptr(), averages.len() as i64, length as i64) };
    check("adam", status)
}

/// Runs the CPU kernel of the sum of squares.
///
/// # Safety
/// `values` must point to `length` values of the kind `kind`, as returned by [`kernel_kind`].
pub(super) unsafe fn sum_of_squares(values: *const c_void, kind: i32, length: usize) -> Result<f64, Error> {
    let mut result = 0.0;
    // SAFETY: guaranteed by the caller.
    check("sum_of_squares", unsafe { admiral_sum_of_squares(values, kind, length as i64, &mut result) })?;
    Ok(result)
}

/// The fused autograd node on the CPU. All tensors are on the CPU, in float32 or a half kind.
pub(super) fn group_norm_silu(x: &Tensor, norm: &GroupNorm<'_>) -> Result<Tensor, Error> {
    group_norm_node(norm, |optional, result| {
        // SAFETY: all pointers are live tensors, or null where the bridge allows it.
        unsafe {
            admiral_group_norm_silu(
                x.as_ptr(),
                norm.weight.as_ptr(),
                norm.bias.as_ptr(),
                optional.scale,
                optional.shift,
                norm.num_groups,
                norm.eps,
                norm.silu,
                optional.probability,
                optional.seed,
                result,
            )
        }
    })
}

/// The optional arguments of a group normalization in the form of the bridge.
struct OptionalArguments {
    /// Null without modulation, as is `shift`.
    scale: *const C_tensor,
    shift: *const C_tensor,
    /// 0 without dropout.
    probability: f64,
    seed: i64,
}

/// Returns the output tensor of a node. `create` writes it to its second argument and returns the bridge's status.
fn group_norm_node(
    norm: &GroupNorm<'_>,
    create: impl FnOnce(&OptionalArguments, &mut *mut C_tensor) -> c_int,
) -> Result<Tensor, Error> {
    let (scale, shift) =
        norm.modulation.map_or((std::ptr::null(), std::ptr::null()), |(scale, shift)| (scale.as_ptr(), shift.as_ptr()));
    let (probability, seed) = norm.dropout.map_or((0.0, 0), |dropout| (dropout.probability, dropout.seed));
    let optional = OptionalArguments { scale, shift, probability, seed: seed.cast_signed() };
    let mut result = std::ptr::null_mut();
    check("group_norm_silu", create(&optional, &mut result))?;
    // SAFETY: on success the bridge transfers the ownership of the tensor.
    Ok(unsafe { Tensor::from_ptr(result) })
}

/// Converts a status of the bridge to a result. The error message is in storage of the calling thread.
fn check(operation: &'static str, status: c_int) -> Result<(), Error> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the bridge returns a NUL-terminated string that lives until this thread's next failing call.
    let message = unsafe { CStr::from_ptr(admiral_last_error()) }.to_string_lossy().into_owned();
    Err(Error::Bridge { operation, message })
}

/// Makes `gradient` the buffer into which backward accumulates for the leaf `parameter`.
///
/// Backward then adds in place, so gradients land in flat memory without a copy. The caller zeroes the buffer.
///
/// # Errors
/// [`Error::Bridge`] when libtorch refuses the pair (shape, kind or device differ).
pub fn set_gradient(parameter: &Tensor, gradient: &Tensor) -> Result<(), Error> {
    // SAFETY: both pointers are live tensors of tch for the length of the call.
    check("set_gradient", unsafe { admiral_set_gradient(parameter.as_ptr(), gradient.as_ptr()) })
}

/// Computes the gradients of `inputs` from the gradient `output_gradient` of `output`. Does not accumulate into leaves.
/// Each result has the shape of its input.
///
/// # Errors
/// If the graph of `output` does not include all `inputs`, or backward fails: [`Error::Bridge`].
pub fn gradients(output: &Tensor, output_gradient: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>, Error> {
    let leaves: Vec<*const C_tensor> = inputs.iter().map(|input| input.as_ptr()).collect();
    let mut results = vec![std::ptr::null_mut(); inputs.len()];
    // SAFETY: all pointers are live tensors, and `results` has room for each result.
    let status = unsafe {
        let (output, output_gradient) = (output.as_ptr(), output_gradient.as_ptr());
        admiral_gradients(output, output_gradient, leaves.as_ptr(), leaves.len() as i64, results.as_mut_ptr())
    };
    check("gradients", status)?;
    // SAFETY: on success the bridge transfers the ownership of the tensors.
    Ok(results.into_iter().map(|result| unsafe { Tensor::from_ptr(result) }).collect())
}

/// Performs one update of float32 tensors with libtorch's fused AdamW, for comparison with [`super::adam`].
///
/// # Errors
/// If libtorch rejects the tensors: [`Error::Bridge`].
pub fn torch_fused_adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    hyper: &AdamHyper,
) -> Result<(), Error> {
    let AdamHyper { learning_rate, beta1, beta2, epsilon, weight_decay, step, gradient_scale: _ } = *hyper;
    let hyper = TorchAdamW { learning_rate, beta1, beta2, epsilon, weight_decay, step: step as f64 };
    // SAFETY: all pointers are live tensors, and `hyper` outlives the call.
    check("torch_fused_adamw", unsafe {
        admiral_torch_fused_adamw(parameter.as_ptr(), gradient.as_ptr(), mean.as_ptr(), variance.as_ptr(), &hyper)
    })
}

/// Sets whether float32 convolutions and matrix products on CUDA may round their inputs to the 10-bit mantissa of TF32.
/// libtorch's default allows it for convolutions. It has no effect on the CPU.
///
/// # Errors
/// If libtorch fails: [`Error::Bridge`].
pub fn allow_tf32(allow: bool) -> Result<(), Error> {
    // SAFETY: the function takes no pointers.
    check("allow_tf32", unsafe { admiral_allow_tf32(allow) })
}

/// Returns libtorch's ID of the current stream of this thread on a GPU. 0 is the default stream, CUDA's null stream.
///
/// # Errors
/// If libtorch has no CUDA or no such GPU: [`Error::Bridge`].
pub fn current_stream(ordinal: usize) -> Result<i64, Error> {
    let mut id = 0;
    // SAFETY: `id` is valid for writing.
    check("current_stream", unsafe { admiral_current_stream(ordinal as i64, &mut id) })?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn backward_accumulates_into_the_given_buffer() {
        let flat = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        let gradient = flat.narrow(0, 1, 2);
        let parameter = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        set_gradient(&parameter, &gradient).unwrap();
        for _ in 0..2 {
            (&parameter * &parameter).sum(Kind::Float).backward();
        }
        assert_eq!(Vec::<f32>::try_from(flat).unwrap(), [0.0, 12.0, -4.0, 0.0]);
    }

    #[test]
    fn gradients_are_returned_and_not_accumulated() {
        let x = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        let y = Tensor::from_slice(&[2.0f32, 5.0]).set_requires_grad(true);
        let found = gradients(&(&x * &x * &y), &Tensor::from_slice(&[1.0f32, 10.0]), &[&x, &y]).unwrap();
        assert_eq!(Vec::<f32>::try_from(&found[0]).unwrap(), [12.0, -100.0]);
        assert_eq!(Vec::<f32>::try_from(&found[1]).unwrap(), [9.0, 10.0]);
        assert!(!x.grad().defined());
        let error = gradients(&(&x * 2.0), &x.detach(), &[&y]).unwrap_err().to_string();
        assert!(error.starts_with("gradients: "), "{error}");
    }

    #[test]
    fn a_gradient_of_another_shape_is_refused() {
        let parameter = Tensor::from_slice(&[3.0f32, -1.0]).set_requires_grad(true);
        let error = set_gradient(&parameter, &Tensor::from_slice(&[0.0f32])).unwrap_err();
        assert!(error.to_string().starts_with("set_gradient: "), "{error}");
    }
}
