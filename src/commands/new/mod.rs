//! `admiral new`: proposes a configuration for given images.

mod columns;
mod document;
mod error;
mod images;
mod network;
mod proposal;

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use admiral_comm::ExitCode;
use admiral_contract::files::check_expanded;
use admiral_storage::StoreOptions;
use clap::Args;

use self::error::NewError;
use self::images::{ImageOptions, look};
use self::proposal::{Wanted, check_size, propose};
use super::hardware::{HardwareOptions, Target, all_cores};
use super::ranks::CommandError;
use super::text::shell;

/// The options of `admiral new`.
#[derive(Debug, Clone, Args)]
pub struct NewOptions {
    #[command(flatten)]
    images: ImageOptions,
    /// Height and width of the samples in pixels [default: as the images and the hardware allow]
    #[arg(long, allow_negative_numbers = true)]
    size: Option<u64>,
    #[command(flatten)]
    hardware: HardwareOptions,
    /// The file to write, which must not exist [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Looks at the images, and writes a configuration for them.
///
/// # Errors
/// When the images cannot be read, no network fits, or the file exists or cannot be written, with the exit code.
pub(super) fn run(options: &NewOptions, stores: &StoreOptions) -> Result<(), CommandError> {
    let refuse = |error: NewError| -> CommandError { (error.exit_code(), error.into()) };
    let target = options.hardware.target().map_err(|error| refuse(error.into()))?;
    // Before the images, because looking at them may take long.
    if let Some(out) = &options.out {
        check_expanded("--out", out).map_err(|message| (ExitCode::Config, anyhow::anyhow!(message)))?;
        check_new(out).map_err(refuse)?;
    }
    if let Some(size) = options.size {
        check_size(size, &target)?;
    }
    let looked = look(&options.images, stores).map_err(refuse)?;
    let cores = all_cores() as u64;
    let name = run_name(options.out.as_deref().unwrap_or(Path::new(&looked.data.path)));
    let wanted = Wanted { size: options.size, target, folder: format!("runs/{name}"), cores };
    let proposal = propose(&looked, &wanted)?;
    let text = document::text(&proposal).map_err(|error| (ExitCode::Bug, error.into()))?;
    match &options.out {
        Some(out) => {
            publish(out, text.as_bytes()).map_err(refuse)?;
            let out = out.display().to_string();
            println!("wrote {out}; next:\n{}", commands(&out, &options.hardware, &target));
        }
        None => {
            print!("{text}");
            let file = format!("{name}.yaml");
            eprintln!("with this text in {file}, next:\n{}", commands(&file, &options.hardware, &target));
        }
    }
    Ok(())
}

/// Returns the commands that come next, one a line.
fn commands(file: &str, hardware: &HardwareOptions, target: &Target) -> String {
    let arguments = hardware.arguments(target);
    let file = shell(file);
    let mut lines =
        vec![format!("admiral config check {file} {arguments}"), format!("admiral plan {file} {arguments}")];
    lines.push(match target.ranks {
        1 => format!("admiral train {file}"),
        ranks => format!("mpirun -n {ranks} --bind-to none admiral train {file}"),
    });
    if target.is_gpu() && target.ranks > 1 {
        lines.push(format!("admiral-launch run {file} --hostfile hosts"));
    }
    lines.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// Returns the name of a run for a file, a folder or a pattern of files: letters, digits, `.`, `_` and `-`.
fn run_name(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.split(['*', '?', '[', '{']).next().unwrap_or_default();
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "._-".contains(letter) { letter } else { '-' };
    let name: String = stem.chars().map(plain).collect();
    let name = name.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
    if name.is_empty() { "unnamed".into() } else { name.into() }
}

/// Refuses a file that exists, or a link to nowhere.
fn check_new(path: &Path) -> Result<(), NewError> {
    let shown = path.display().to_string();
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(NewError::Exists(shown)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(NewError::File { path: shown, source }),
    }
}

/// Writes a new file. Its content is written beside it first, and appears complete.
fn publish(path: &Path, bytes: &[u8]) -> Result<(), NewError> {
    let shown = || path.display().to_string();
    let failed = |source: std::io::Error| NewError::File { path: shown(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".admiral-new-")
        // The usual permissions of a new file, from which the umask takes away.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Err(NewError::Exists(shown())),
        Err(error) => Err(failed(error.error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_after_its_file_or_images() {
        let name = |path: &str| run_name(Path::new(path));
        assert_eq!(
            (name("own.yaml"), name("/data/my birds"), name("/")),
            ("own".into(), "my-birds".into(), "unnamed".into())
        );
        assert_eq!(name("/data/train-{000..146}.tar"), "train");
        assert_eq!(name("/data/../.."), "unnamed");
    }
}
