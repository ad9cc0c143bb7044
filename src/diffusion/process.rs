//! The process itself: its schedule, what the network is called with, and the forward direction q.

use tch::{Device, Tensor};

use super::config::{DiffusionConfig, LossType, Prediction, Variance};
use super::respacing::{RespacingError, respaced_betas};
use super::schedule::{Schedule, betas};

/// A network as the process sees it: x_t `[batch, channels, height, width]` and the timesteps as the network wants
/// them (`[batch]`, float32) to its output, of x_t's shape, or with twice the channels where the variance is learned.
pub type Model<'a> = dyn Fn(&Tensor, &Tensor) -> Tensor + 'a;

/// A Gaussian diffusion process (the paper's section 2 and appendix B), respaced where the configuration says so.
///
/// Timesteps are given as a slice on the host, one for each sample of the batch, each in `0..num_timesteps()`; the
/// functions panic where one is not. Coefficients are computed in float64, and those of a batch go to its device in
/// one small copy that does not wait for it.
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
    /// The process that the configuration describes.
    ///
    /// # Errors
    /// Where `timestep_respacing` does not fit `diffusion_steps`.
    pub fn new(config: &DiffusionConfig) -> Result<Self, RespacingError> {
        let original_timesteps = config.retained_timesteps()?;
        let full = Schedule::new(betas(config.noise_schedule, config.diffusion_steps));
        let schedule = if original_timesteps.len() == full.num_timesteps() {
            full
        } else {
            Schedule::new(respaced_betas(&full.alphas_cumprod, &original_timesteps))
        };
        let timestep_scale = if config.rescale_timesteps { 1000.0 / config.diffusion_steps as f64 } else { 1.0 };
        Ok(Self {
            schedule,
            original_timesteps,
            timestep_scale,
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

    /// The arrays of the (respaced) process.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// For each timestep, the timestep of the full process that it stands for, ascending.
    #[must_use]
    pub fn original_timesteps(&self) -> &[usize] {
        &self.original_timesteps
    }

    /// What the network, or a noised classifier, is called with at these timesteps: those of the full process, scaled
    /// where the configuration says so. `[batch]`, float32.
    pub fn model_timesteps(&self, t: &[i64], device: Device) -> Tensor {
        let [timesteps] = self.gather(t, device, |t| [self.original_timesteps[t] as f64 * self.timestep_scale]);
        timesteps.view([-1])
    }

    /// Draws x_t from q(x_t | x_0) (equation 17 of the paper's appendix B) with the given standard normal noise.
    pub fn q_sample(&self, x_start: &Tensor, t: &[i64], noise: &Tensor) -> Tensor {
        let s = &self.schedule;
        let [signal, sigma] =
            self.gather(t, x_start.device(), |t| [s.sqrt_alphas_cumprod[t], s.sqrt_one_minus_alphas_cumprod[t]]);
        // Not fused: its rounding is magnified where x_0 is recovered near the last timestep.
        signal * x_start + sigma * noise
    }

    /// For each of N numbers that belong to a timestep, a `[batch, 1, 1, 1]` float32 tensor on the device.
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
        let rows = upload(&Tensor::from_slice(&rows), device).view([N as i64, batch as i64, 1, 1, 1]);
        std::array::from_fn(|row| rows.get(row as i64))
    }
}

/// Copies a host tensor to the device without waiting for the work queued there.
pub fn upload(host: &Tensor, device: Device) -> Tensor {
    if device == Device::Cpu {
        return host.shallow_clone();
    }
    // CUDA stages pageable memory before this returns, so the source may go at once.
    host.internal_to_copy((host.kind(), device), true)
}
