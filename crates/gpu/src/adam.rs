//! One pass of the optimizer over flat memory: AdamW, moving averages, and the half-precision copy.

use crate::kind::Kind;
use crate::launch::{Error, Launch, launch, require, require_address};
use crate::program::Program;
use crate::shape::{DevicePointer, flat_shape};

/// The numbers of one AdamW update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamHyper {
    /// The learning rate.
    pub learning_rate: f64,
    /// The decay rate of the mean of gradients.
    pub beta1: f64,
    /// The decay rate of the mean of squared gradients.
    pub beta2: f64,
    /// The constant that is added to the root of the variance.
    pub epsilon: f64,
    /// The decoupled weight decay: masters are multiplied by `1 - learning_rate * weight_decay` before the step.
    pub weight_decay: f64,
    /// The number of this update, from 1, for the bias correction of both moments. Ignored if a
    /// [`StepControl`](crate::norms::StepControl) counts updates on the device.
    pub step: u64,
    /// The factor of the gradient: the inverse loss scale, and the clip factor if the host computes it.
    pub gradient_scale: f64,
}

/// The addresses of flat memory of the same length, each a multiple of 16.
#[derive(Debug, Clone)]
pub struct AdamMemory {
    /// The number of values.
    pub length: usize,
    /// The parameters, float32.
    pub master: DevicePointer,
    /// The mean of gradients, float32.
    pub mean: DevicePointer,
    /// The mean of squared gradients, float32.
    pub variance: DevicePointer,
    /// The gradient.
    pub gradient: (Kind, DevicePointer),
    /// The half-precision copy of the parameters, which the network computes with.
    pub half: Option<(Kind, DevicePointer)>,
    /// The moving averages of the masters with their rates, float32.
    pub averages: Vec<(f64, DevicePointer)>,
}

const OPERATION: &str = "adam";
/// The largest number of averages in one launch (`adam.cu`).
const MAX_AVERAGES: usize = 8;

/// The numbers of an update, rounded once. Must have the layout of `AdamUpdate` in `adam.cu` and in the CPU's kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AdamUpdate {
    gradient_scale: f32,
    decay: f32,
    beta1_rest: f32,
    beta2: f32,
    beta2_rest: f32,
    root_correction: f32,
    epsilon: f32,
    step_size: f32,
}

impl From<&AdamHyper> for AdamUpdate {
    fn from(hyper: &AdamHyper) -> Self {
        let correction1 = 1.0 - hyper.beta1.powf(hyper.step as f64);
        let correction2 = 1.0 - hyper.beta2.powf(hyper.step as f64);
        Self {
            gradient_scale: hyper.gradient_scale as f32,
            decay: (1.0 - hyper.learning_rate * hyper.weight_decay) as f32,
            beta1_rest: (1.0 - hyper.beta1) as f32,
            beta2: hyper.beta2 as f32,
            beta2_rest: (1.0 - hyper.beta2) as f32,
            root_correction: (1.0 / correction2.sqrt()) as f32,
            epsilon: hyper.epsilon as f32,
            step_size: (hyper.learning_rate / correction1) as f32,
        }
    }
}

/// Must have the layout of `Averages` in `adam.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Averages {
    addresses: [DevicePointer; MAX_AVERAGES],
    rates: [f32; MAX_AVERAGES],
    /// 1 - rate.
    rests: [f32; MAX_AVERAGES],
    count: i32,
    reserved: u32,
}

/// The argument of `adam`. Must have the layout of `AdamArguments` in `adam.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Arguments {
    master: DevicePointer,
    mean: DevicePointer,
    variance: DevicePointer,
    gradient: DevicePointer,
    half: DevicePointer,
    control: DevicePointer,
    length: i64,
    averages: Averages,
    update: AdamUpdate,
}

/// The argument of `more_averages`. Must have the layout of `AverageArguments` in `adam.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct AverageArguments {
    master: DevicePointer,
    control: DevicePointer,
    length: i64,
    averages: Averages,
}

fn averages(list: &[(f64, DevicePointer)]) -> Averages {
    let mut all = Averages { count: list.len() as i32, ..Averages::default() };
    for (i, &(rate, address)) in list.iter().enumerate() {
        all.addresses[i] = address;
        all.rates[i] = rate as f32;
        all.rests[i] = (1.0 - rate) as f32;
    }
    all
}

/// Enqueues one update of AdamW:
///
/// ```text
/// g = gradient * gradient_scale
/// mean = beta1 * mean + (1 - beta1) * g
/// variance = beta2 * variance + (1 - beta2) * g^2
/// master = master * (1 - learning_rate * weight_decay)
///     - learning_rate * mean / (1 - beta1^step) / (sqrt(variance / (1 - beta2^step)) + epsilon)
/// average = rate * average + (1 - rate) * master
/// ```
///
/// With `control`, the address of a [`StepControl`](crate::norms::StepControl), the device decides: if `skip` is set,
/// nothing changes; else its clip factor and bias corrections are used.
///
/// # Errors
/// If an address or a type is not supported ([`Error::Unsuitable`]), or a kernel cannot be compiled or launched.
///
/// # Safety
/// All addresses must be valid for `length` values, and `control` for its struct, until the kernels have run.
pub unsafe fn adam(
    on: &dyn Launch,
    memory: &AdamMemory,
    hyper: &AdamHyper,
    control: Option<DevicePointer>,
) -> Result<(), Error> {
    if memory.length == 0 {
        return Ok(());
    }
    let flat = [
        ("master", memory.master),
        ("mean", memory.mean),
        ("variance", memory.variance),
        ("gradient", memory.gradient.1),
    ];
    let half = memory.half.map(|(_, address)| ("half", address));
    let averaged = memory.averages.iter().map(|&(_, address)| ("averages", address));
    for (name, address) in flat.into_iter().chain(half).chain(averaged) {
        require_address(OPERATION, name, address, 16)?;
    }
    if let Some(control) = control {
        require_address(OPERATION, "control", control, 8)?;
    }
    if let Some((kind, _)) = memory.half {
        require(kind != Kind::Float, OPERATION, "half", "float32", "of a half kind")?;
    }
    let (first, later) = memory.averages.split_at(memory.averages.len().min(MAX_AVERAGES));
    let arguments = Arguments {
        master: memory.master,
        mean: memory.mean,
        variance: memory.variance,
        gradient: memory.gradient.1,
        half: memory.half.map_or(0, |(_, address)| address),
        control: control.unwrap_or(0),
        length: memory.length as i64,
        averages: averages(first),
        update: hyper.into(),
    };
    let program = Program::Adam { gradient: memory.gradient.0, half: memory.half.map(|(kind, _)| kind) };
    let shape = flat_shape(memory.length as u64, 4);
    // SAFETY: `Arguments` is the argument of the kernel, and the caller guarantees the addresses.
    unsafe { launch(on, &program, "adam", &shape, &arguments)? };
    for chunk in later.chunks(MAX_AVERAGES) {
        let arguments = AverageArguments {
            master: memory.master,
            control: control.unwrap_or(0),
            length: memory.length as i64,
            averages: averages(chunk),
        };
        // SAFETY: as above.
        unsafe { launch(on, &program, "more_averages", &shape, &arguments)? };
    }
    Ok(())
}
