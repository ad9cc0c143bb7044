//! Kind `bpd`: the variational bound of images, term by term.

use tch::{Device, Kind, Tensor};

use super::loops::{GoldenNetwork, Loop, input};
use super::support::{Case, Outcome, close, device};

/// The tolerance of a value relative to itself.
const RELATIVE: f64 = 1e-3;
/// The tolerance on top of it.
const ABSOLUTE: f64 = 1e-6;
/// The relative tolerance of the term at t = 0. The exact normal distribution instead of its published approximation
/// would be further off.
const AT_ZERO: f64 = 5e-5;

/// Fails if a value differs from the expected one by more than the tolerances.
fn each_close(name: &str, actual: &Tensor, expected: &Tensor, relative: f64) -> Outcome {
    let [actual, expected] = [actual, expected].map(|tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Double));
    if actual.size() != expected.size() {
        return Err(format!("{name}: shape {:?}, expected {:?}", actual.size(), expected.size()));
    }
    let share = ((actual - &expected).abs() / (expected.abs() * relative + ABSOLUTE)).max().double_value(&[]);
    if share <= 1.0 { Ok(()) } else { Err(format!("{name}: an error is {share:.2} times the tolerance")) }
}

pub fn check(case: &Case) -> Outcome {
    let sampler = Loop::read(&case.config)?;
    let network = GoldenNetwork::read(&case.config["model"], &case.salt)?;
    let labels = input(case, "y");
    let model = |x: &Tensor, timesteps: &Tensor| network.call(x, timesteps, labels.as_ref(), None);
    let bytes = case.tensor("images_u8")?.to_device(device());
    let x_start = (bytes.to_kind(Kind::Double) / 127.5 - 1.0).to_kind(Kind::Float).permute([0, 3, 1, 2]).contiguous();
    close("x0", &x_start, case.tensor("x0")?, 0.0)?;
    let step_noise = case.tensor("step_noise")?.to_device(device());
    let last = sampler.diffusion.num_timesteps() - 1;
    let mut noise = |t: usize| step_noise.get((last - t) as i64);
    let bits = sampler.diffusion.bits_per_dimension(&model, &x_start, &mut noise, sampler.options.clip_denoised);

    each_close("prior_bpd", &bits.prior, case.tensor("prior_bpd")?, RELATIVE)?;
    each_close("total_bpd", &bits.total, case.tensor("total_bpd")?, RELATIVE)?;
    for (name, columns) in [("vb", &bits.vb), ("xstart_mse", &bits.x_start_mse), ("mse", &bits.mse)] {
        // The reference goes from the last timestep to the first.
        each_close(name, &columns.flip([1]), case.tensor(name)?, RELATIVE)?;
    }
    each_close("vb at t = 0", &bits.vb.select(1, 0), &case.tensor("vb")?.select(1, -1), AT_ZERO)
}
