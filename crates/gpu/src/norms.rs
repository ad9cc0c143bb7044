//! Norms over flat memory, and what a step makes of them, without asking the host.

use crate::kind::Kind;
use crate::launch::{Error, Launch, launch, require, require_address};
use crate::program::Program;
use crate::shape::{DevicePointer, FLAT_THREADS, Shape, flat_shape};

/// What the device decides about a step. Lives in device memory, zeroed before the first step; written by [`finish`],
/// read by [`adam`](crate::adam::adam). The host may copy it whenever it likes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepControl {
    /// l2 norm of the unscaled gradient before clipping; not finite where the step is skipped.
    pub gradient_norm: f64,
    /// l2 norm of the masters before the step.
    pub parameter_norm: f64,
    /// Updates made, this one included unless it is skipped. Set it when a run resumes.
    pub updates: u64,
    /// Steps skipped in a row, this one included.
    pub skipped: u64,
    /// Multiplies the gradient: 1, or what shortens it to the clip norm.
    pub clip: f32,
    /// learning_rate / (1 - beta1^updates).
    pub step_size: f32,
    /// 1 / sqrt(1 - beta2^updates).
    pub root_correction: f32,
    /// 1: the gradient is not finite, and everything stays as it is.
    pub skip: u32,
}

impl StepControl {
    /// As it lies in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        // SAFETY: plain numbers without padding (48 bytes of 4 * 8 and 4 * 4).
        unsafe { std::mem::transmute(*self) }
    }

    /// From a copy of device memory.
    #[must_use]
    pub fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        // SAFETY: every pattern of bits is a value of plain numbers.
        unsafe { std::mem::transmute(bytes) }
    }
}

/// The kernel's argument; its twin is in `norms.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    values: DevicePointer,
    partials: DevicePointer,
    length: i64,
}

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

/// How many float64 partial sums [`sum_of_squares`] writes.
#[must_use]
pub fn num_partials(kind: Kind, length: usize) -> usize {
    if length == 0 { 0 } else { shape(kind, length).grid[0] as usize }
}

/// Enqueues partial sums of the squares of `length` values at `values`, a multiple of 16, to `partials`.
///
/// # Errors
/// [`Error::Unsuitable`] for addresses; else what compiling and launching says.
///
/// # Safety
/// The addresses are good for `length` values and [`num_partials`] float64 until the kernel has run.
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
    // SAFETY: `Arguments` is the kernel's argument, and the addresses are good by the caller's word.
    unsafe { launch(on, &Program::Norms { kind }, "sum_of_squares", &shape(kind, length), &arguments) }
}

/// What [`finish`] makes of the sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// Partial sums of all gradients, in one row.
    pub gradient_partials: (DevicePointer, usize),
    /// Partial sums of all masters, in one row; none gives a norm of 0.
    pub parameter_partials: (DevicePointer, usize),
    /// A [`StepControl`].
    pub control: DevicePointer,
    /// The inverse loss scale.
    pub gradient_scale: f64,
    /// Longest gradient; 0 clips nothing.
    pub clip_norm: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
}

/// Enqueues the decision about a step: norms, overflow, clip factor, bias corrections, the count of updates.
///
/// # Errors
/// [`Error::Unsuitable`] for addresses; else what compiling and launching says.
///
/// # Safety
/// The addresses are good for what they are said to hold until the kernel has run.
pub unsafe fn finish(on: &dyn Launch, what: &Finish) -> Result<(), Error> {
    const OPERATION: &str = "the end of norms";
    let (gradient, num_gradient) = what.gradient_partials;
    let (parameter, num_parameter) = what.parameter_partials;
    require(num_gradient > 0, OPERATION, "gradient_partials", "empty", "at least one sum")?;
    require_address(OPERATION, "gradient_partials", gradient, 8)?;
    if num_parameter > 0 {
        require_address(OPERATION, "parameter_partials", parameter, 8)?;
    }
    require_address(OPERATION, "control", what.control, 8)?;
    let arguments = FinishArguments {
        gradient_partials: gradient,
        parameter_partials: parameter,
        control: what.control,
        num_gradient_partials: num_gradient as i64,
        num_parameter_partials: num_parameter as i64,
        gradient_scale: what.gradient_scale,
        clip_norm: what.clip_norm,
        learning_rate: what.learning_rate,
        beta1: what.beta1,
        beta2: what.beta2,
    };
    let shape = Shape { grid: [1, 1, 1], block: FLAT_THREADS, shared_bytes: 0 };
    // Any kind has it: masters are float32, so that program is at hand anyway.
    // SAFETY: as in `sum_of_squares`.
    unsafe { launch(on, &Program::Norms { kind: Kind::Float }, "finish_norms", &shape, &arguments) }
}
