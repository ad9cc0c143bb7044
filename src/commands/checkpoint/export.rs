//! `admiral checkpoint export`: writes a checkpoint's weights to a PyTorch file or to safetensors.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use admiral_checkpoint::{Parameter, Role, RoleTensors, find_checkpoint};
use admiral_checkpoints_schema::safetensors::header;
use admiral_contract::files::replace;
use admiral_storage::CloudSettings;
use admiral_torch_files::{Dtype, Error, TensorSpec, Writer};
use clap::Args;
use serde_json::json;

use crate::sample::choose_role;
use crate::train::TrainError;

use super::error::ToolError;
use super::options::options_of;
use super::print::{print, print_json};

/// The number of values that are converted to bytes at once.
const CHUNK: usize = 1 << 18;

/// The options of `admiral checkpoint export`.
#[derive(Debug, Args)]
pub struct ExportOptions {
    /// A checkpoint's folder, or a folder of checkpoints or a run's folder (then the newest): a path or a bucket's URL
    checkpoint: String,
    /// The file to write: NAME.pt, which torch.load reads, or NAME.safetensors
    out: PathBuf,
    /// Weights: ema (the first average), master, or an average by its rate, such as ema-0.9999
    #[arg(long, default_value = "ema")]
    weights: String,
    /// Overwrite an existing file
    #[arg(long)]
    overwrite: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Torch,
    Safetensors,
}

pub(super) fn run(options: &ExportOptions, clouds: &CloudSettings) -> Result<(), ToolError> {
    let out = options.out.display().to_string();
    let refuse = |reason: &str| Err(ToolError::Refused(format!("{out}: {reason}")));
    let format = match options.out.extension().and_then(|end| end.to_str()) {
        Some("pt") => Format::Torch,
        Some("safetensors") => Format::Safetensors,
        _ => return refuse("the file's name must end in .pt or .safetensors, which determines the format"),
    };
    if options.out.exists() && !options.overwrite {
        return refuse("it exists already; give --overwrite to overwrite it");
    }
    let checkpoint = find_checkpoint(&options.checkpoint, &options_of(clouds))?;
    let role = choose_role(&checkpoint, Some(&options.weights)).map_err(TrainError::from)?;
    let tensors = checkpoint.load_role(role)?;
    let manifest = checkpoint.manifest();
    let step = manifest.training.step;
    replace(&options.out, ".partial", |file| match format {
        Format::Torch => write_torch(file, manifest.parameters(), &tensors),
        Format::Safetensors => write_safetensors(file, role, step, manifest.parameters(), &tensors),
    })
    .map_err(|error| ToolError::File { path: out.clone(), cause: error.to_string() })?;
    let (count, num_values) = (tensors.len(), tensors.values().map(|(_, values)| values.len()).sum::<usize>());
    if options.json {
        return print_json(&json!({
            "file": out,
            "checkpoint": checkpoint.url(),
            "step": step,
            "weights": role.to_string(),
            "tensors": count,
            "values": num_values,
        }));
    }
    print(&format!("{out}: {role} of {}, {count} tensors, {num_values} values\n", checkpoint.url()))
}

/// Returns a parameter's values as little-endian bytes, in chunks.
fn byte_chunks<'a>(tensors: &'a RoleTensors, parameter: &Parameter) -> impl Iterator<Item = Vec<u8>> + use<'a> {
    let values = tensors.get(&parameter.name).map_or(&[][..], |(_, values)| values);
    values.chunks(CHUNK).map(|chunk| chunk.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn write_torch(file: File, parameters: &[Parameter], tensors: &RoleTensors) -> Result<File, Error> {
    let specs: Vec<TensorSpec> = parameters
        .iter()
        .map(|Parameter { name, shape }| TensorSpec { name: name.clone(), dtype: Dtype::F32, shape: shape.clone() })
        .collect();
    let mut writer = Writer::new(file, &specs)?;
    for parameter in parameters {
        writer.tensor(byte_chunks(tensors, parameter))?;
    }
    writer.finish()
}

fn write_safetensors(
    file: File,
    role: Role,
    step: u64,
    parameters: &[Parameter],
    tensors: &RoleTensors,
) -> Result<File, Error> {
    let mut out = BufWriter::new(file);
    out.write_all(&header(role, step, parameters.iter().map(|p| (p.name.as_str(), p.shape.as_slice()))))?;
    for parameter in parameters {
        for chunk in byte_chunks(tensors, parameter) {
            out.write_all(&chunk)?;
        }
    }
    Ok(out.into_inner().map_err(std::io::IntoInnerError::into_error)?)
}
