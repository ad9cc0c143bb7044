//! Norms over flat memory, and the decision about a step that follows from them. Both run on the device without waiting
//! for the host.

use crate::kind::Kind;
use crate::launch::{Error, Launch, launch, require, require_address};
use crate::program::Program;
use crate::shape::{DevicePointer, FLAT_THREADS, Shape, flat_shape};

/// The device's decision about a step. It is in device memory and must be zeroed before the first step. [`finish`]
/// writes it, and [`adam`](crate::adam::adam) reads it. The host may copy it at any time.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepControl {
    /// The l2 norm of the unscaled gradient before clipping; not finite if the step is skipped.
    pub gradient_norm: f64,
    /// The l2 norm of the masters before the step.
    pub parameter_norm: f64,
    /// The number of updates, including this one unless it is skipped. Must be set when a run resumes.
    pub updates: u64,
    /// The number of consecutive skipped steps, including this one.
    pub skipped: u64,
    /// The factor of the gradient: 1, or less to clip its norm.
    pub clip: f32,
    /// `learning_rate / (1 - beta1^updates)`.
    pub step_size: f32,
    /// `1 / sqrt(1 - beta2^updates)`.
    pub root_correction: f32,
    /// 1 if the gradient is not finite and the step is skipped, else 0.
    pub skip: u32,
}

impl StepControl {
    /// Returns its bytes in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        // SAFETY: plain numbers without padding (48 bytes of 4 * 8 and 4 * 4).
        unsafe { std::mem::transmute(*self) }
    }

    /// Makes it from a copy of device memory.
    #[must_use]
    pub fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        // SAFETY: every pattern of bits is a value of plain numbers.
        unsafe { std::mem::transmute(bytes) }
    }
}

/// The argument of `sum_of_squares`. Must have the layout of `SumOfSquaresArguments` in `norms.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    values: DevicePointer,
    partials: DevicePointer,
    length: i64,
}

/// The argument of `finish_norms`. Must have the layout of `FinishArguments` in `norms.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct FinishArguments {
    gradient_partials: DevicePointer,
    parameter_partials: DevicePointer,
    control: DevicePointer,
    num_gradient_partials: i64,
    num_parameter_partials: i64,
    gradient_scale: f64,
    clip_norm: f64,
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
}

const OPERATION: &str = "sum of squares";

fn shape(kind: Kind, length: usize) -> Shape {
    flat_shape(length as u64, kind.vector_width() as u64)
}

/// Returns the number of float64 partial sums that [`sum_of_squares`] writes.
#[must_use]
pub fn num_partials(kind: Kind, length: usize) -> usize {
    if length == 0 { 0 } else { shape(kind, length).grid[0] as usize }
}

/// Enqueues the sum of squares of `length` values, whose address must be a multiple of 16, as partial sums to
/// `partials`.
///
/// # Errors
/// If an address is not supported ([`Error::Unsuitable`]), or the kernel cannot be compiled or launched.
///
/// # Safety
/// The addresses must be valid for `length` values and [`num_partials`] float64 sums until the kernel has run.
pub unsafe fn sum_of_squares(
    on: &dyn Launch,
    kind: Kind,
    values: DevicePointer,
    length: usize,
    partials: DevicePointer,
) -> Result<(), Error> {
    if length == 0 {
        return Ok(());
    }
    require_address(OPERATION, "values", values, 16)?;
    require_address(OPERATION, "partials", partials, 8)?;
    let arguments = Arguments { values, partials, length: length as i64 };
    // SAFETY: `Arguments` is the argument of the kernel, and the caller guarantees the addresses.
    unsafe { launch(on, &Program::Norms { kind }, "sum_of_squares", &shape(kind, length), &arguments) }
}

/// The input of [`finish`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// The address and the number of the partial sums of all gradients.
    pub gradient_partials: (DevicePointer, usize),
    /// The address and the number of the partial sums of all masters. Without any, the norm is 0.
    pub parameter_partials: (DevicePointer, usize),
    /// The address of a [`StepControl`].
    pub control: DevicePointer,
    /// The inverse loss scale.
    pub gradient_scale: f64,
    /// The largest norm of the gradient; 0 turns clipping off.
    pub clip_norm: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// The decay rate of the mean of gradients.
    pub beta1: f64,
    /// The decay rate of the mean of squared gradients.
    pub beta2: f64,
}

/// Enqueues the decision about a step: the norms, whether the gradient overflowed, the clip factor, the bias
/// corrections, the number of updates.
///
/// # Errors
/// If an address is not supported ([`Error::Unsuitable`]), or the kernel cannot be compiled or launched.
///
/// # Safety
/// The addresses must be valid for the values that [`Finish`] describes until the kernel has run.
pub unsafe fn finish(on: &dyn Launch, input: &Finish) -> Result<(), Error> {
    const OPERATION: &str = "the end of norms";
    let (gradient, num_gradient) = input.gradient_partials;
    let (parameter, num_parameter) = input.parameter_partials;
    require(num_gradient > 0, OPERATION, "gradient_partials", "empty", "at least one sum")?;
    require_address(OPERATION, "gradient_partials", gradient, 8)?;
    if num_parameter > 0 {
        require_address(OPERATION, "parameter_partials", parameter, 8)?;
    }
    require_address(OPERATION, "control", input.control, 8)?;
    let arguments = FinishArguments {
        gradient_partials: gradient,
        parameter_partials: parameter,
        control: input.control,
        num_gradient_partials: num_gradient as i64,
        num_parameter_partials: num_parameter as i64,
        gradient_scale: input.gradient_scale,
        clip_norm: input.clip_norm,
        learning_rate: input.learning_rate,
        beta1: input.beta1,
        beta2: input.beta2,
    };
    let shape = Shape { grid: [1, 1, 1], block: FLAT_THREADS, shared_bytes: 0 };
    // The programs of all kinds have this kernel. The norm of the masters already needs the program of float32.
    // SAFETY: as in `sum_of_squares`.
    unsafe { launch(on, &Program::Norms { kind: Kind::Float }, "finish_norms", &shape, &arguments) }
}
