//! `admiral evaluate weights`: what a file of Inception weights is, and its conversion.

use std::path::PathBuf;

use admiral_comm::ExitCode;
use admiral_inception::{Conversion, Weights};
use clap::Args;
use serde::Serialize;

use super::super::ranks::CommandError;

/// The options of `admiral evaluate weights`.
#[derive(Debug, Clone, Args)]
pub(in crate::commands) struct WeightsOptions {
    /// A PyTorch state dict, a safetensors file, or TensorFlow's classify_image_graph_def.pb
    file: PathBuf,
    /// Write the weights as a safetensors file. An existing file is not overwritten
    #[arg(long, value_name = "NAME.safetensors")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is known about a file.
#[derive(Debug, Serialize)]
struct Description {
    kind: Option<String>,
    /// The published file that it is.
    known: Option<&'static str>,
    /// The SHA-256 of the file.
    sha256: Option<String>,
    /// The SHA-256 over names, shapes and values, which is the same in each format.
    fingerprint: String,
    /// Whether the weights have the last layer.
    has_classes: bool,
    /// The file that was written, or existed with the same bytes.
    written: Option<PathBuf>,
}

/// Prints what a file is, and converts it.
///
/// # Errors
/// When the file cannot be read, does not hold the weights, or the other file cannot be written.
pub(in crate::commands) fn run(options: &WeightsOptions) -> Result<(), CommandError> {
    let refuse = |error: admiral_inception::Error| (ExitCode::Config, error.into());
    let weights = Weights::open(&options.file).map_err(refuse)?;
    let conversion = options.out.as_ref().map(|out| weights.write_safetensors(out)).transpose().map_err(refuse)?;
    let description = Description {
        kind: weights.file_kind().map(|kind| kind.to_string()),
        known: weights.known().map(|known| known.name),
        sha256: weights.file_sha256().map(str::to_owned),
        fingerprint: weights.fingerprint(),
        has_classes: weights.has_classes(),
        written: options.out.clone(),
    };
    if options.json {
        let text = serde_json::to_string_pretty(&description).map_err(|error| (ExitCode::Bug, error.into()))?;
        println!("{text}");
    } else {
        print(&description, conversion);
    }
    Ok(())
}

fn print(description: &Description, conversion: Option<Conversion>) {
    let row = |name: &str, text: &str| println!("{name:<12} {text}");
    row("file", description.kind.as_deref().unwrap_or("-"));
    row("sha256", description.sha256.as_deref().unwrap_or("-"));
    row(
        "known",
        description
            .known
            .unwrap_or("cannot be told: Admiral knows the SHA-256 of the file of pytorch-fid and torch-fidelity only"),
    );
    row("fingerprint", &description.fingerprint);
    row(
        "last layer",
        if description.has_classes { "yes" } else { "no, so there is no Inception Score with these weights" },
    );
    if let (Some(path), Some(conversion)) = (&description.written, conversion) {
        let done = match conversion {
            Conversion::Written => "written",
            Conversion::Same => "exists with the same bytes",
        };
        row("safetensors", &format!("{}: {done}", path.display()));
    }
}
