//! `admiral config check`: prints what is doubtful in a configuration that is valid.

use admiral_advice::limits::SAMPLE;
use admiral_advice::{Doubt, Pictures, doubts, survey};
use admiral_comm::ExitCode;
use admiral_contract::printable;
use admiral_data::{DataConfig, DataError, open};
use admiral_plan::GpuKind;
use admiral_storage::StoreOptions;
use clap::Args;
use serde::Serialize;

use crate::commands::hardware::{HardwareError, HardwareOptions, Target};
use crate::commands::planned::planned;
use crate::commands::ranks::{CommandError, print_json};
use crate::host_gpus::HostGpus;
use crate::run_config::{DeviceChoice, RunConfig};

use super::facts::run_facts;
use super::read::{ConfigArguments, read, refuse};

/// The arguments of `admiral config check`.
#[derive(Args)]
pub(in crate::commands) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    hardware: HardwareOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    doubts: Vec<Doubt>,
    /// The number of images, if they can be opened.
    images: Option<u64>,
    /// The hardware of the plan, if it is known.
    hardware: Option<String>,
    /// What was not checked, with the reason.
    not_checked: Vec<String>,
}

/// Prints the doubts. Returns whether there are any.
///
/// # Errors
/// When the configuration is invalid, or an option is, with the exit code.
pub(super) fn run(arguments: &CheckArguments, stores: &StoreOptions) -> Result<bool, CommandError> {
    let config = read(&arguments.config.config, &arguments.config.overrides)?;
    let findings = find(&config, &arguments.hardware, stores)?;
    if arguments.json {
        print_json(&findings)?;
    } else {
        let file = arguments.config.config.display().to_string();
        print!("{}", printable(&text(&file, &findings)));
    }
    Ok(!findings.doubts.is_empty())
}

fn find(config: &RunConfig, hardware: &HardwareOptions, stores: &StoreOptions) -> Result<Findings, CommandError> {
    let facts = config.facts().map_err(refuse)?;
    let target = target(config, hardware).map_err(|error| (ExitCode::Config, error.into()))?;
    let mut not_checked = Vec::new();
    let mut found = Vec::new();
    let pictures = match look(config, stores) {
        Ok(pictures) => Some(pictures),
        // The run would end with this error, wherever it starts.
        Err(error @ DataError::AllBroken { .. }) => {
            found.push(Doubt::new("data.path", error.to_string(), "repair the images, or name others"));
            None
        }
        Err(error) => {
            not_checked.push(format!("the images, because they cannot be opened here: {error}"));
            None
        }
    };
    if target.is_none() {
        not_checked.push("memory and time, because the GPUs are not known; give --gpus and --gpu".into());
    }
    let is_here = target.is_some_and(|target| target.is_here);
    let cores = std::thread::available_parallelism().map(|cores| cores.get() as u64).ok().filter(|_| is_here);
    let run = run_facts(config, &facts, cores);
    let planned = target.map(|target| planned(config, &target));
    found.extend(doubts(&run, pictures.as_ref(), planned.as_ref()));
    Ok(Findings {
        doubts: found,
        images: pictures.map(|pictures| pictures.count),
        hardware: target.map(|target| target.to_string()),
        not_checked,
    })
}

/// Returns the hardware of the run: that of the options, and otherwise that of this machine, if the run is for its CPU or it
/// has GPUs of a known kind.
fn target(config: &RunConfig, options: &HardwareOptions) -> Result<Option<Target>, HardwareError> {
    if !options.are_empty() {
        return Ok(Some(options.target()?));
    }
    if config.run.device == DeviceChoice::Cpu {
        return Ok(Some(Target { hardware: GpuKind::Cpu.hardware(), ranks: 1, is_here: true }));
    }
    match HostGpus::of_this_host() {
        HostGpus::Known { .. } => Ok(Some(options.target()?)),
        HostGpus::None | HostGpus::Unknown { .. } => Ok(None),
    }
}

/// Looks at all images of the run, of which some may be kept for validation.
fn look(config: &RunConfig, stores: &StoreOptions) -> Result<Pictures, DataError> {
    let data = DataConfig {
        validation_path: None,
        validation_label_path: None,
        validation_fraction: 0.0,
        ..config.data.clone()
    };
    survey(&*open(&data, config.run.seed, stores)?.train, SAMPLE)
}

/// Returns the findings for people, a doubt with its remedy on two lines.
fn text(file: &str, findings: &Findings) -> String {
    let mut text = match findings.doubts.len() {
        0 => format!("{file}: no doubts\n"),
        1 => format!("{file}: 1 doubt\n"),
        number => format!("{file}: {number} doubts\n"),
    };
    for Doubt { field, reason, remedy } in &findings.doubts {
        text += &format!("  {field}: {reason}\n    {remedy}\n");
    }
    if let Some(images) = findings.images {
        text += &format!("checked with {images} images\n");
    }
    if let Some(hardware) = &findings.hardware {
        text += &format!("checked for {hardware}\n");
    }
    for what in &findings.not_checked {
        text += &format!("not checked: {what}\n");
    }
    text
}
