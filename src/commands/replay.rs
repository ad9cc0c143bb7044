//! `admiral replay`: takes a recorded step again, and finds its first values that are not finite.

use std::io::Write as _;
use std::path::PathBuf;

use admiral_comm::{Ending, ExitCode};
use admiral_telemetry::write_file;
use clap::Args;

use crate::context::RankContext;
use crate::train::{Capsule, ReplayRequest, ReportText, TrainError, replay};

use super::compute::DeviceOptions;

/// The options of `admiral replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayOptions {
    /// A capsule: its folder in RUN/black-box, or its file
    capsule: PathBuf,
    /// The step to check, from 0, between the checkpoint and the capsule [default: that of the capsule]
    #[arg(long)]
    at: Option<u64>,
    /// Start from this checkpoint of the run: its folder or URL [default: the one that the capsule names]
    #[arg(long, value_name = "CHECKPOINT")]
    checkpoint: Option<String>,
    #[command(flatten)]
    device: DeviceOptions,
    /// A new folder for the report and the samples that are found [default: beside the capsule]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Replays a step, in one process.
///
/// # Errors
/// When the capsule cannot be read or the step cannot be replayed.
pub(super) fn run(options: &ReplayOptions, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let end = |error: TrainError| Ending::alone(error.exit_code(), &error);
    let capsule = Capsule::read(&options.capsule).map_err(|reason| end(TrainError::Refused(reason)))?;
    let request = ReplayRequest {
        path: options.capsule.clone(),
        capsule,
        at: options.at,
        checkpoint: options.checkpoint.clone(),
        device: options.device.device,
        threads: options.device.threads.unwrap_or(0),
        out: options.out.clone(),
    };
    let report = replay(&request, rank).map_err(end)?;
    let json = serde_json::to_string_pretty(&report).map_err(|error| Ending::alone(ExitCode::Bug, &error))?;
    let path = report.folder.join("report.json");
    // Shown first, because the file may fail after a long replay.
    let shown = if options.json { json.clone() + "\n" } else { ReportText(&report, &request.capsule).to_string() };
    // The reader may be gone.
    let _ = std::io::stdout().write_all(shown.as_bytes());
    write_file(&path, json.as_bytes())
        .map_err(|source| end(TrainError::Folder { path: path.display().to_string(), source }))?;
    if !options.json {
        let _ = std::io::stdout().write_all(format!("wrote {}\n", path.display()).as_bytes());
    }
    Ok(ExitCode::Finished)
}
