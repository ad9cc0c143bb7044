//! Kinds `schedule`, `respacing`, `process` and `loss_second_moment`: the diffusion process with a given model output.

use std::cell::RefCell;

use admiral::diffusion::{
    Denoising, DiffusionConfig, GaussianDiffusion, LossSecondMoment, LossType, NoiseSchedule, Prediction, Reverse,
    Schedule, Variance, betas,
};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::support::{Case, Outcome, PASS, SCHEDULE, close, device};

/// A diffusion process in the golden files, with the reference's flags.
#[derive(Debug, Deserialize)]
pub struct ProcessFlags {
    diffusion_steps: usize,
    noise_schedule: NoiseSchedule,
    #[serde(default)]
    timestep_respacing: String,
    #[serde(default)]
    pub learn_sigma: bool,
    #[serde(default)]
    sigma_small: bool,
    #[serde(default)]
    predict_xstart: bool,
    #[serde(default)]
    use_kl: bool,
    #[serde(default)]
    rescale_learned_sigmas: bool,
    #[serde(default)]
    rescale_timesteps: bool,
}

impl ProcessFlags {
    pub fn read(config: &serde_json::Value) -> Result<Self, String> {
        serde_json::from_value(config.clone()).map_err(|error| format!("config: {error}"))
    }

    pub fn build(&self) -> Result<GaussianDiffusion, String> {
        GaussianDiffusion::new(&self.config()).map_err(|error| error.to_string())
    }

    pub fn config(&self) -> DiffusionConfig {
        DiffusionConfig {
            diffusion_steps: self.diffusion_steps,
            noise_schedule: self.noise_schedule,
            timestep_respacing: self.timestep_respacing.clone(),
            predict: if self.predict_xstart { Prediction::XStart } else { Prediction::Epsilon },
            variance: match (self.learn_sigma, self.sigma_small) {
                (true, _) => Variance::LearnedRange,
                (false, true) => Variance::FixedSmall,
                (false, false) => Variance::FixedLarge,
            },
            loss: match (self.use_kl, self.rescale_learned_sigmas) {
                (true, _) => LossType::RescaledKl,
                (false, true) => LossType::RescaledMse,
                (false, false) => LossType::Mse,
            },
            rescale_timesteps: self.rescale_timesteps,
            ..Default::default()
        }
    }
}

pub fn schedule(case: &Case) -> Outcome {
    let flags = ProcessFlags::read(&case.config)?;
    let s = Schedule::new(betas(flags.noise_schedule, flags.diffusion_steps));
    for (name, expected) in &case.tensors {
        let actual = match name.as_str() {
            "betas" => &s.betas,
            "alphas_cumprod" => &s.alphas_cumprod,
            "alphas_cumprod_prev" => &s.alphas_cumprod_prev,
            "alphas_cumprod_next" => &s.alphas_cumprod_next,
            "sqrt_alphas_cumprod" => &s.sqrt_alphas_cumprod,
            "sqrt_one_minus_alphas_cumprod" => &s.sqrt_one_minus_alphas_cumprod,
            "log_one_minus_alphas_cumprod" => &s.log_one_minus_alphas_cumprod,
            "sqrt_recip_alphas_cumprod" => &s.sqrt_recip_alphas_cumprod,
            "sqrt_recipm1_alphas_cumprod" => &s.sqrt_recipm1_alphas_cumprod,
            "posterior_variance" => &s.posterior_variance,
            "posterior_log_variance_clipped" => &s.posterior_log_variance_clipped,
            "posterior_mean_coef1" => &s.posterior_mean_coef1,
            "posterior_mean_coef2" => &s.posterior_mean_coef2,
            other => return Err(format!("no array is called {other}")),
        };
        close(name, &Tensor::from_slice(actual), expected, SCHEDULE)?;
    }
    Ok(())
}

pub fn respacing(case: &Case) -> Outcome {
    let entries = case.config.as_array().ok_or("config is no list")?;
    for (i, entry) in entries.iter().enumerate() {
        let diffusion = ProcessFlags::read(entry)?.build()?;
        let timesteps: Vec<i64> = diffusion.original_timesteps().iter().map(|&t| t as i64).collect();
        let name = format!("{i}.timesteps");
        close(&name, &Tensor::from_slice(&timesteps), case.tensor(&name)?, 0.0)?;
        let name = format!("{i}.betas");
        close(&name, &Tensor::from_slice(&diffusion.schedule().betas), case.tensor(&name)?, SCHEDULE)?;
    }
    Ok(())
}

pub fn process(case: &Case) -> Outcome {
    let diffusion = ProcessFlags::read(&case.config)?.build()?;
    let input = |name: &str| case.tensor(name).map(|tensor| tensor.to_device(device()));
    let (x_start, noise, step_noise) = (input("x0")?, input("noise")?, input("step_noise")?);
    let (output, gradient) = (input("model_output")?, input("guidance_gradient")?);
    let t = Vec::<i64>::try_from(case.tensor("t")?).map_err(|error| error.to_string())?;
    let expect = |name: &str, actual: &Tensor| close(name, actual, case.tensor(name)?, PASS);
    let like_images = |tensor: &Tensor| tensor.expand_as(&x_start);

    let called_with = RefCell::new(Vec::new());
    let model = |x: &Tensor, timesteps: &Tensor| {
        assert_eq!(x.size(), x_start.size());
        called_with.borrow_mut().push(timesteps.shallow_clone());
        output.shallow_clone()
    };
    let x_t = diffusion.q_sample(&x_start, &t, &noise);
    expect("q_sample", &x_t)?;
    let posterior = diffusion.q_posterior(&x_start, &x_t, &t);
    expect("posterior.mean", &posterior.mean)?;
    expect("posterior.variance", &like_images(&posterior.variance))?;
    expect("posterior.log_variance", &like_images(&posterior.log_variance))?;
    expect("prior_bpd", &diffusion.prior_bpd(&x_start))?;

    let losses = diffusion.training_losses(&model, &x_start, &t, &noise);
    expect("loss.loss", &losses.loss)?;
    for (name, term) in [("loss.mse", losses.mse), ("loss.vb", losses.vb)] {
        match term {
            Some(term) => expect(name, &term)?,
            None if case.tensors.contains_key(name) => return Err(format!("{name} was not computed")),
            None => {}
        }
    }

    let clipped = Denoising::default();
    for (clip, denoising) in [("clip_true", clipped), ("clip_false", Denoising::NONE)] {
        let reverse = diffusion.p_mean_variance(&model, &x_t, &t, denoising);
        expect(&format!("vb.{clip}"), &diffusion.vb_terms(&reverse, &x_start, &x_t, &t))?;
        let Reverse { previous, x_start } = reverse;
        expect(&format!("p.{clip}.mean"), &previous.mean)?;
        expect(&format!("p.{clip}.variance"), &like_images(&previous.variance))?;
        expect(&format!("p.{clip}.log_variance"), &like_images(&previous.log_variance))?;
        expect(&format!("p.{clip}.pred_xstart"), &x_start)?;
    }

    let guide = |_: &Tensor, timesteps: &Tensor| {
        called_with.borrow_mut().push(timesteps.shallow_clone());
        gradient.shallow_clone()
    };
    let ddpm = |guidance| diffusion.p_sample(&model, &x_t, &t, Some(&step_noise), clipped, guidance).sample;
    expect("p_sample", &ddpm(None))?;
    expect("p_sample.guided", &ddpm(Some(&guide)))?;
    let ddim = |eta| diffusion.ddim_sample(&model, &x_t, &t, Some((eta, &step_noise)), clipped, None).sample;
    for (name, expected) in case.tensors.iter().filter(|(name, _)| name.starts_with("ddim_sample.eta_")) {
        let eta = name["ddim_sample.eta_".len()..].parse().map_err(|_| format!("{name} ends in no number"))?;
        close(name, &ddim(eta), expected, PASS)?;
    }
    let guided = diffusion.ddim_sample(&model, &x_t, &t, None, clipped, Some(&guide)).sample;
    expect("ddim_sample.guided", &guided)?;
    let encoded = diffusion.ddim_reverse_sample(&model, &x_t, &t, Denoising::NONE).sample;
    expect("ddim_reverse_sample", &encoded)?;

    for timesteps in called_with.into_inner() {
        expect("model_timesteps", &timesteps)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct SamplerConfig {
    diffusion_steps: usize,
    history_per_term: usize,
    uniform_prob: f64,
}

/// The number of pairs before `weights.warm`.
const WARM: usize = 200;

pub fn loss_second_moment(case: &Case) -> Outcome {
    let config: SamplerConfig =
        serde_json::from_value(case.config.clone()).map_err(|error| format!("config: {error}"))?;
    let mut sampler = LossSecondMoment::new(config.diffusion_steps, config.history_per_term, config.uniform_prob);
    let values = |name: &str| {
        Vec::<f64>::try_from(case.tensor(name)?.to_kind(Kind::Double)).map_err(|error| format!("{name}: {error}"))
    };
    let mut pairs = values("t")?.into_iter().map(|t| t as i64).zip(values("loss")?);
    let weights = |sampler: &LossSecondMoment| Tensor::from_slice(&sampler.weights());
    close("weights.before", &weights(&sampler), case.tensor("weights.before")?, SCHEDULE)?;
    sampler.update(pairs.by_ref().take(WARM));
    close("weights.warm", &weights(&sampler), case.tensor("weights.warm")?, SCHEDULE)?;
    sampler.update(pairs);
    close("weights.after", &weights(&sampler), case.tensor("weights.after")?, SCHEDULE)
}
