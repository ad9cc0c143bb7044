//! The section `sampling` of a run's configuration.

use admiral_config::Invalid;
use serde::{Deserialize, Serialize};

use crate::diffusion::{
    Churn, DiffusionConfig, DynamicThresholding, Sampler, SolverError, SolverOptions, SolverPlan, SolverType, TimeGrid,
};

/// How samples are drawn: the grids of a run, and what `admiral sample` does unless told otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// The sampler. docs/sampling.md compares them.
    pub sampler: Sampler,
    /// Timesteps that ddpm and ddim visit: `250`, `ddim25`, sections such as `90,60,60,20,20`, or empty for all. Other
    /// samplers have `steps`.
    pub timestep_respacing: String,
    /// Noise of ddim: 0 for none, 1 for as much as ddpm.
    pub eta: f64,
    /// Clamps predicted images to the range of images.
    pub clip_denoised: bool,
    /// Steps of the samplers other than ddpm and ddim; for singlestep ones, evaluations. null: the sampler's own
    /// number, 10 to 25.
    pub steps: Option<usize>,
    /// How noise levels are spaced: `uniform` in time, `quadratic` (in its square root), `logsnr` or `karras`. null:
    /// the sampler's own.
    pub time_grid: Option<TimeGrid>,
    /// Order of unipc_bh1 and unipc_bh2; earlier evaluations in a step of deis_tab and ipndm. null: the sampler's own.
    pub order: Option<usize>,
    /// How samplers named dpm compute their second-order term: `midpoint` (null) or `taylor`.
    pub solver_type: Option<SolverType>,
    /// Whether the last of few steps have lower orders, which is steadier. null: yes.
    pub lower_order_final: Option<bool>,
    /// Whether one more evaluation removes the noise that is left at the end, about one 8-bit level. null: no.
    pub denoise_to_zero: Option<bool>,
    /// Limits predicted images by a quantile of their own values, in place of `clip_denoised`: for large guidance
    /// scales.
    pub dynamic_thresholding: Option<DynamicThresholding>,
    /// Noise that heun adds and removes again in each step.
    pub churn: Option<Churn>,
    /// Images of each class in a grid; without classes, the number of rows and of columns.
    pub samples_per_class: u64,
    /// Maximum number of classes in a grid, starting from the first.
    pub max_classes: u64,
    /// Images that are drawn together.
    pub batch_size: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            sampler: Sampler::DDIM,
            timestep_respacing: "ddim25".into(),
            eta: 0.0,
            clip_denoised: true,
            steps: None,
            time_grid: None,
            order: None,
            solver_type: None,
            lower_order_final: None,
            denoise_to_zero: None,
            dynamic_thresholding: None,
            churn: None,
            samples_per_class: 8,
            max_classes: 10,
            batch_size: 16,
        }
    }
}

/// The largest number of columns of a grid.
const MAX_PER_CLASS: u64 = 1000;
/// The largest number of classes that can be asked for. A model has fewer.
const MAX_CLASSES: u64 = 1_000_000;
/// The largest number of images that are drawn together.
const MAX_BATCH: u64 = 65_536;
/// The largest number of pixels of a grid, which is in memory as a whole. Pillow opens no larger images.
const MAX_GRID_PIXELS: u64 = 178_956_970;

impl SamplingConfig {
    /// Returns a mistake if a grid with this number of rows of images of `image_size` x `image_size` pixels is too large.
    #[must_use]
    pub fn check_grid(&self, rows: u64, image_size: i64) -> Option<Invalid> {
        let pixels = [rows, self.samples_per_class, image_size.unsigned_abs(), image_size.unsigned_abs()]
            .into_iter()
            .fold(1_u64, u64::saturating_mul);
        (pixels > MAX_GRID_PIXELS).then(|| {
            let message = format!(
                "is {}; a grid of {rows} rows has {pixels} pixels then, and at most {MAX_GRID_PIXELS} are drawn",
                self.samples_per_class
            );
            Invalid::new("sampling.samples_per_class", message)
        })
    }

    /// Returns the number of rows of a grid: one for each class, up to `max_classes`. Without classes, a grid is a square.
    #[must_use]
    pub fn grid_rows(&self, num_classes: Option<i64>) -> u64 {
        num_classes.map_or(self.samples_per_class, |classes| classes.unsigned_abs().min(self.max_classes))
    }

    /// Returns the section for another sampler, whose own options it takes. The options of this sampler do not apply to it.
    ///
    /// ddpm takes 250 steps in place of a stride that is meant for ddim.
    #[must_use]
    pub fn with_sampler(&self, sampler: Sampler) -> Self {
        let is_strided = self.timestep_respacing.starts_with("ddim");
        let needs_steps = sampler == Sampler::DDPM && is_strided;
        Self {
            sampler,
            timestep_respacing: if needs_steps { "250".into() } else { self.timestep_respacing.clone() },
            clip_denoised: self.clip_denoised,
            samples_per_class: self.samples_per_class,
            max_classes: self.max_classes,
            batch_size: self.batch_size,
            ..Self::default()
        }
    }

    /// Returns the options of the solver.
    #[must_use]
    pub fn solver_options(&self) -> SolverOptions {
        SolverOptions {
            timestep_respacing: self.timestep_respacing.clone(),
            eta: self.eta,
            clip_denoised: self.clip_denoised,
            steps: self.steps,
            time_grid: self.time_grid,
            order: self.order,
            solver_type: self.solver_type,
            lower_order_final: self.lower_order_final,
            denoise_to_zero: self.denoise_to_zero,
            dynamic_thresholding: self.dynamic_thresholding,
            churn: self.churn,
            ..SolverOptions::default()
        }
    }

    /// Prepares the solver for the given diffusion process of training.
    ///
    /// # Errors
    /// If an option does not fit the solver or the process.
    pub fn solver_plan(&self, training: &DiffusionConfig) -> Result<SolverPlan, SolverError> {
        SolverPlan::new(self.sampler, &self.solver_options(), training)
    }

    /// Returns all mistakes, for the given diffusion process of training.
    #[must_use]
    pub fn validate(&self, training: &DiffusionConfig) -> Vec<Invalid> {
        let mut mistakes = Vec::new();
        let mut check = |good: bool, field: &str, message: String| {
            if !good {
                mistakes.push(Invalid::new(format!("sampling.{field}"), message));
            }
        };
        for (field, value, most) in [
            ("samples_per_class", self.samples_per_class, MAX_PER_CLASS),
            ("max_classes", self.max_classes, MAX_CLASSES),
            ("batch_size", self.batch_size, MAX_BATCH),
        ] {
            check((1..=most).contains(&value), field, format!("is {value}; it must lie in [1, {most}]"));
        }
        for mistake in self.sampler.check(&self.solver_options(), training) {
            check(false, mistake.field(), mistake.to_string());
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_bounds() {
        let training = DiffusionConfig::default();
        for per_class in [0, 1001, 4_000_000_000] {
            let config = SamplingConfig { samples_per_class: per_class, ..SamplingConfig::default() };
            assert_eq!(config.validate(&training).len(), 1, "{per_class}");
        }
        let config = SamplingConfig { samples_per_class: 50, ..SamplingConfig::default() };
        assert_eq!((config.grid_rows(None), config.grid_rows(Some(3)), config.grid_rows(Some(1000))), (50, 3, 10));
        assert_eq!(config.check_grid(10, 512), None);
        assert!(config.check_grid(1000, 512).is_some());
        assert!(config.check_grid(u64::MAX, i64::MAX).is_some());
    }

    #[test]
    fn another_sampler_has_its_own_options() {
        let config = SamplingConfig { eta: 0.5, batch_size: 3, clip_denoised: false, ..SamplingConfig::default() };
        let ddpm = config.with_sampler(Sampler::DDPM);
        let expected = SamplingConfig {
            sampler: Sampler::DDPM,
            timestep_respacing: "250".into(),
            batch_size: 3,
            clip_denoised: false,
            ..SamplingConfig::default()
        };
        assert_eq!(ddpm, expected);
        assert_eq!(ddpm.with_sampler(Sampler::DDIM).timestep_respacing, "250");
    }

    #[test]
    fn mistakes_name_their_field() {
        let training = DiffusionConfig::default();
        assert_eq!(SamplingConfig::default().validate(&training), []);
        let config = SamplingConfig { eta: 2.0, timestep_respacing: "ddim999".into(), ..SamplingConfig::default() };
        let fields: Vec<String> = config.validate(&training).into_iter().map(|mistake| mistake.field).collect();
        assert_eq!(fields, ["sampling.timestep_respacing", "sampling.eta"]);
    }

    #[test]
    fn options_of_other_samplers_are_refused_by_name() {
        let training = DiffusionConfig::default();
        let mistakes = |config: SamplingConfig| -> Vec<String> {
            config.validate(&training).into_iter().map(|mistake| mistake.to_string()).collect()
        };
        let config = SamplingConfig { order: Some(2), churn: Some(Churn::default()), ..SamplingConfig::default() };
        let found = mistakes(config.clone());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("sampling.order") && found[0].contains("ddim"), "{found:?}");
        assert!(found[1].contains("sampling.churn"), "{found:?}");
        let sampler: Sampler = "unipc_bh2".parse().expect("a name of the table");
        let found = mistakes(SamplingConfig { sampler, churn: None, ..config.clone() });
        assert_eq!(found, [""; 0]);
        let found = mistakes(SamplingConfig { sampler, churn: None, order: Some(4), ..config });
        assert!(found[0].contains("sampling.order") && found[0].contains("3"), "{found:?}");
    }

    #[test]
    fn a_configuration_of_an_earlier_version_means_the_same() {
        let text = r#"{"sampler": "ddpm", "timestep_respacing": "250", "eta": 0.5, "clip_denoised": true,
            "samples_per_class": 8, "max_classes": 10, "batch_size": 16}"#;
        let config: SamplingConfig = serde_json::from_str(text).expect("the fields of that version");
        assert_eq!(config.validate(&DiffusionConfig::default()), []);
        let plan = config.solver_plan(&DiffusionConfig::default()).expect("valid");
        assert_eq!((plan.sampler(), plan.start().num_steps()), (Sampler::DDPM, 250));
    }
}
