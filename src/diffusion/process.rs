//! The diffusion process: its schedule, the inputs of the network, and the forward direction q.

use tch::{Device, Tensor};

use super::config::{DiffusionConfig, LossType, Prediction, Variance};
use super::respacing::{RespacingError, respaced_betas};
use super::schedule::{Schedule, betas};

/// A network, as a function of x_t `[batch, channels, height, width]` and the timesteps in the network's scale
/// (`[batch]`, float32). The output has the shape of x_t, with twice the channels if the variance is learned.
pub type Model<'a> = dyn Fn(&Tensor, &Tensor) -> Tensor + 'a;

/// A Gaussian diffusion process (the paper's section 2 and appendix B), respaced if the configuration requests it.
///
/// Timesteps are a slice on the host, one for each sample of the batch, each in `0..num_timesteps()`. The functions
/// panic if a timestep is out of range. Coefficients are computed in float64. The coefficients of a batch are copied to
/// its device in one small copy that does not wait for the device.
#[derive(Debug, Clone)]
pub struct GaussianDiffusion {
    schedule: Schedule,
    original_timesteps: Vec<usize>,
    timestep_scale: f64,
    pub(super) prediction: Prediction,
    pub(super) variance: Variance,
    pub(super) loss: LossType,
}

impl GaussianDiffusion {
    /// Creates the process that the configuration describes.
    ///
    /// # Errors
    /// If `timestep_respacing` does not fit `diffusion_steps`.
    pub fn new(config: &DiffusionConfig) -> Result<Self, RespacingError> {
        let original_timesteps = config.retained_timesteps()?;
        let full = Schedule::new(betas(config.noise_schedule, config.diffusion_steps));
        let schedule = if original_timesteps.len() == full.num_timesteps() {
            full
        } else {
            Schedule::new(respaced_betas(&full.alphas_cumprod, &original_timesteps))
        };
        Ok(Self {
            schedule,
            original_timesteps,
            timestep_scale: config.timestep_scale(),
            prediction: config.predict,
            variance: config.variance,
            loss: config.loss,
        })
    }

    /// The number of steps, after respacing.
    #[must_use]
    pub fn num_timesteps(&self) -> usize {
        self.schedule.num_timesteps()
    }

    /// The coefficients of the process, after respacing.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The timestep of the full process for each timestep of this process, ascending.
    #[must_use]
    pub fn original_timesteps(&self) -> &[usize] {
        &self.original_timesteps
    }

    /// Returns the timesteps that the network or a classifier receives, `[batch]`, float32: timesteps of the full
    /// process, scaled if the configuration requests it.
    pub fn model_timesteps(&self, t: &[i64], device: Device) -> Tensor {
        let [timesteps] = self.gather(t, device, |t| [self.original_timesteps[t] as f64 * self.timestep_scale]);
        timesteps.view([-1])
    }

    /// Samples x_t from q(x_t | x_0) (equation 17 of the paper's appendix B) with the given standard normal noise.
    /// `x_start`, `noise` and the result are `[batch, channels, height, width]`.
    pub fn q_sample(&self, x_start: &Tensor, t: &[i64], noise: &Tensor) -> Tensor {
        let s = &self.schedule;
        let [signal, sigma] =
            self.gather(t, x_start.device(), |t| [s.sqrt_alphas_cumprod[t], s.sqrt_one_minus_alphas_cumprod[t]]);
        // No fused multiply-add: a difference in rounding grows when x_0 is recovered near the last timestep.
        signal * x_start + sigma * noise
    }

    /// Returns N tensors on the device, each `[batch, 1, 1, 1]`, float32, with one of the N numbers that `numbers`
    /// returns for the timestep of each sample.
    pub(super) fn gather<const N: usize>(
        &self,
        t: &[i64],
        device: Device,
        numbers: impl Fn(usize) -> [f64; N],
    ) -> [Tensor; N] {
        let batch = t.len();
        let mut rows = vec![0.0f32; N * batch];
        for (sample, &t) in t.iter().enumerate() {
            let timestep = usize::try_from(t).ok().filter(|&t| t < self.num_timesteps());
            let Some(timestep) = timestep else { panic!("timestep {t} is not in 0..{}", self.num_timesteps()) };
            for (row, number) in numbers(timestep).into_iter().enumerate() {
                rows[row * batch + sample] = number as f32;
            }
        }
        let rows = copy_to_device(&Tensor::from_slice(&rows), device).view([N as i64, batch as i64, 1, 1, 1]);
        std::array::from_fn(|row| rows.get(row as i64))
    }
}

/// Copies a host tensor to the device without waiting for queued work.
pub fn copy_to_device(host: &Tensor, device: Device) -> Tensor {
    if device == Device::Cpu {
        return host.shallow_clone();
    }
    // CUDA copies pageable memory to a staging buffer before this returns, so `host` may be freed immediately.
    host.internal_to_copy((host.kind(), device), true)
}
