//! `admiral plan`: the cost of a run before it starts, computed by `admiral-plan` from the configuration.

use std::path::{Path, PathBuf};

use admiral_comm::ExitCode;
use admiral_config::{ConfigError, Invalid, load};
use admiral_plan::{GpuKind, Hardware, PlanError, Report, Speed, UnknownGpu, plan, text};
use clap::Args;
use serde::Serialize;

use crate::run_config::{RunConfig, plan_request};

/// The options of `admiral plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanOptions {
    /// Configurations, YAML files; the GPU-days of several are summed, for example a base model and its upsampler
    #[arg(required = true, value_name = "CONFIG")]
    configs: Vec<PathBuf>,
    /// Override a field of all configurations: --set training.microbatch=64
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    overrides: Vec<String>,
    /// Number of GPUs, or of processes with --gpu cpu, one rank each; hosts have 8
    #[arg(long, default_value_t = 8, allow_negative_numbers = true)]
    gpus: u64,
    /// v100 (32 GB), a100 (80 GB), h100, h200, or cpu
    #[arg(long)]
    gpu: String,
    /// Source of the speed: model, or paper (the measured images per V100-second of its Table 7)
    #[arg(long, default_value = "model")]
    rates: String,
    /// Steps instead of the configuration's; one number for each of several configurations: 540000,500000
    // `allow_negative_numbers` is not enough: clap does not take -1,2 for a negative number.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    steps: Vec<u64>,
    /// Part of the GPU's peak that training reaches, counting three forward passes per image: 0.4
    #[arg(long, conflicts_with = "images_per_second", allow_negative_numbers = true)]
    mfu: Option<f64>,
    /// Images per second of one GPU or process alone, as `admiral bench step` measures them
    #[arg(long, allow_negative_numbers = true)]
    images_per_second: Option<f64>,
    /// GB/s reached from one GPU to another GPU of its host, in one direction
    #[arg(long, allow_negative_numbers = true)]
    nvlink_gbs: Option<f64>,
    /// GB/s reached from one host to another, in one direction, with all network cards together
    #[arg(long, allow_negative_numbers = true)]
    network_gbs: Option<f64>,
    /// GiB of memory of a GPU, if it differs from the default of its kind
    #[arg(long, allow_negative_numbers = true)]
    gpu_memory_gib: Option<f64>,
    /// Average kB of an image file; ImageNet's files have 110
    #[arg(long, default_value_t = 110.0, allow_negative_numbers = true)]
    image_kb: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why there is no plan. A retry does not help with any of these errors.
#[derive(Debug, thiserror::Error)]
pub enum PlanCommandError {
    /// A configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A configuration has mistakes or does not fit the number of GPUs.
    #[error("{file}: {}", list(.mistakes))]
    Invalid {
        /// The configuration's file.
        file: String,
        /// The mistakes.
        mistakes: Vec<Invalid>,
    },
    /// The kind of GPU is unknown.
    #[error(transparent)]
    Gpu(#[from] UnknownGpu),
    /// An option has an invalid value.
    #[error("{0}")]
    Option(String),
    /// The plan cannot be computed.
    #[error("{file}: {reason}")]
    Plan {
        /// The configuration's file.
        file: String,
        /// The reason.
        reason: PlanError,
    },
}

fn list(mistakes: &[Invalid]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The plans of all configurations, for programs.
#[derive(Debug, Serialize)]
struct Plans {
    plans: Vec<Report>,
    /// The sum, or `None` if one of the speeds is unknown.
    gpu_days: Option<f64>,
}

/// Prints the plans.
///
/// # Errors
/// When a configuration or an option cannot be planned, with the exit code.
pub fn run(options: &PlanOptions) -> Result<(), (ExitCode, anyhow::Error)> {
    let plans = make(options).map_err(|error| (ExitCode::Config, error.into()))?;
    if options.json {
        let text = serde_json::to_string_pretty(&plans).map_err(|error| (ExitCode::Bug, error.into()))?;
        println!("{text}");
        return Ok(());
    }
    let tables: Vec<String> = plans.plans.iter().map(text).collect();
    print!("{}", tables.join("\n\n"));
    if let (Some(days), true) = (plans.gpu_days, plans.plans.len() > 1) {
        let unit = plans.plans.first().map_or("GPU", |plan| plan.hardware.kind.units().0);
        println!("\n{:<24}{days:>12.2}", format!("{unit}-days of all"));
    }
    Ok(())
}

fn make(options: &PlanOptions) -> Result<Plans, PlanCommandError> {
    let (hardware, speed) = options.hardware_and_speed()?;
    if !matches!(options.steps.len(), 0 | 1) && options.steps.len() != options.configs.len() {
        return Err(PlanCommandError::Option(format!(
            "--steps has {} numbers for {} configurations; give one, or one for each",
            options.steps.len(),
            options.configs.len()
        )));
    }
    let plans = options.configs.iter().enumerate().map(|(i, path)| {
        let mut config: RunConfig = load(path, &options.overrides)?;
        if let Some(&steps) = options.steps.get(i).or(options.steps.first()) {
            config.training.steps = steps;
        }
        options.plan_of(&config, path, &hardware, speed)
    });
    let plans: Vec<Report> = plans.collect::<Result<_, _>>()?;
    let gpu_days = plans.iter().map(|plan| plan.time.map(|time| time.gpu_days)).sum();
    Ok(Plans { plans, gpu_days })
}

impl PlanOptions {
    /// Returns the hardware and the source of the speed.
    fn hardware_and_speed(&self) -> Result<(Hardware, Speed), PlanCommandError> {
        let refuse = |message: String| Err(PlanCommandError::Option(message));
        let mut hardware = self.gpu.parse::<GpuKind>()?.hardware();
        if self.gpus == 0 {
            return refuse("--gpus is 0; a run needs at least one".into());
        }
        if self.steps.contains(&0) {
            return refuse("--steps is 0; a run has at least one".into());
        }
        for (name, value) in [
            ("--mfu", self.mfu),
            ("--images-per-second", self.images_per_second),
            ("--nvlink-gbs", self.nvlink_gbs),
            ("--network-gbs", self.network_gbs),
            ("--gpu-memory-gib", self.gpu_memory_gib),
            ("--image-kb", Some(self.image_kb)),
        ] {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
                return refuse(format!("{name} is {value}; it must be positive"));
            }
        }
        if let Some(mfu) = self.mfu.filter(|mfu| *mfu > 1.0) {
            return refuse(format!("--mfu is {mfu}; it is a part of the peak, at most 1"));
        }
        let is_cpu = hardware.kind == GpuKind::Cpu;
        if is_cpu && self.mfu.is_some() {
            return refuse("--mfu is a part of a GPU's peak; give --images-per-second with --gpu cpu".into());
        }
        let to_bytes = |gbs: f64| gbs * 1e9;
        hardware.nvlink.bytes_per_second = self.nvlink_gbs.map_or(hardware.nvlink.bytes_per_second, to_bytes);
        hardware.network.bytes_per_second = self.network_gbs.map_or(hardware.network.bytes_per_second, to_bytes);
        if let Some(gib) = self.gpu_memory_gib {
            hardware.memory_bytes = Some((gib * (1_u64 << 30) as f64) as u64);
        }
        let speed = match (self.rates.as_str(), self.images_per_second) {
            ("paper", None) if self.mfu.is_none() => Speed::Paper,
            ("paper", _) => {
                return refuse("--rates paper has its own speed: leave --mfu and --images-per-second out".into());
            }
            ("model", Some(rate)) => Speed::Measured(rate),
            ("model", None) if is_cpu => Speed::Unknown,
            ("model", None) => Speed::Mfu(self.mfu.unwrap_or(hardware.mfu)),
            (other, _) => return refuse(format!("--rates is {other:?}; it is model or paper")),
        };
        Ok((hardware, speed))
    }

    fn plan_of(
        &self,
        config: &RunConfig,
        path: &Path,
        hardware: &Hardware,
        speed: Speed,
    ) -> Result<Report, PlanCommandError> {
        let file = path.display().to_string();
        let image_bytes = (1e3 * self.image_kb) as u64;
        let request = plan_request(&file, config, hardware.kind, self.gpus, image_bytes);
        let request = request.map_err(|mistakes| PlanCommandError::Invalid { file: file.clone(), mistakes })?;
        plan(&request, hardware, speed).map_err(|reason| PlanCommandError::Plan { file, reason })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn options(gpu: &str) -> PlanOptions {
        PlanOptions {
            configs: vec!["none.yaml".into()],
            overrides: Vec::new(),
            gpus: 8,
            gpu: gpu.into(),
            rates: "model".into(),
            steps: Vec::new(),
            mfu: None,
            images_per_second: None,
            nvlink_gbs: None,
            network_gbs: None,
            gpu_memory_gib: None,
            image_kb: 110.0,
            json: false,
        }
    }

    #[test]
    fn options_become_hardware_and_speed() {
        let (hardware, speed) = options("v100").hardware_and_speed().unwrap();
        assert_eq!(speed, Speed::Mfu(hardware.mfu));
        let custom =
            PlanOptions { network_gbs: Some(3.0), gpu_memory_gib: Some(16.0), mfu: Some(0.5), ..options("v100") };
        let (hardware, speed) = custom.hardware_and_speed().unwrap();
        assert_eq!((hardware.network.bytes_per_second, hardware.memory_bytes), (3e9, Some(16 << 30)));
        assert_eq!(speed, Speed::Mfu(0.5));
        assert_eq!(options("cpu").hardware_and_speed().unwrap().1, Speed::Unknown);
        let measured = PlanOptions { images_per_second: Some(2.0), ..options("cpu") };
        assert_eq!(measured.hardware_and_speed().unwrap().1, Speed::Measured(2.0));
    }

    #[test]
    fn invalid_options_are_refused() {
        for (options, expected) in [
            (PlanOptions { gpus: 0, ..options("v100") }, "--gpus is 0"),
            (options("k80"), "v100, a100"),
            (PlanOptions { mfu: Some(40.0), ..options("v100") }, "at most 1"),
            (PlanOptions { mfu: Some(0.4), ..options("cpu") }, "--images-per-second"),
            (PlanOptions { image_kb: f64::NAN, ..options("v100") }, "--image-kb"),
            (PlanOptions { image_kb: -5.0, ..options("v100") }, "--image-kb is -5; it must be positive"),
            (PlanOptions { mfu: Some(-0.4), ..options("v100") }, "--mfu is -0.4; it must be positive"),
            (PlanOptions { rates: "papers".into(), ..options("v100") }, "model or paper"),
            (PlanOptions { rates: "paper".into(), mfu: Some(0.4), ..options("v100") }, "leave --mfu"),
        ] {
            let message = options.hardware_and_speed().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
