//! What one host finds out about itself. Findings are not made here: what is right shows only beside the other hosts.

mod command;
mod environment;
mod gpu;
mod interfaces;
mod leftovers;
mod program;
mod store;
mod system;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::environment::Environment;
pub use environment::selected;
pub use gpu::{Gpu, GpuState, Holder};
pub use interfaces::{Interface, InterfaceKind, interfaces};
pub use leftovers::Leftover;
pub use program::{FileIdentity, ProgramVersion};
pub use store::StoreAccess;
pub use system::{Disk, System};

/// What a host is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Question {
    /// The program `admiral`.
    pub program: PathBuf,
    /// Files that every host has to have with the same bytes: the configuration.
    pub files: Vec<PathBuf>,
    /// What every host has to find, files or folders: the data.
    pub places: Vec<PathBuf>,
    /// The run's folder.
    pub run_folder: Option<PathBuf>,
    /// Where checkpoints go; it is tried. None: no trial.
    pub checkpoint_url: Option<String>,
    /// Processes of this launch are no leftovers.
    pub launch_id: Option<String>,
    /// Goes into the hashes of secrets, so that they say only whether two hosts have the same.
    pub salt: String,
}

/// What a host found out. An `Err` says why something could not be found out, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Kernel, limits, memory.
    pub system: System,
    /// Network interfaces that are up.
    pub interfaces: Vec<Interface>,
    /// The program `admiral`.
    pub program: Result<FileIdentity, String>,
    /// The program `admiral-launch`, as it runs on this host.
    pub launcher: Result<FileIdentity, String>,
    /// What the program says of itself; None where this build of it does not say.
    pub version: Result<Option<ProgramVersion>, String>,
    /// libtorch's files, by name.
    pub libtorch: BTreeMap<String, FileIdentity>,
    /// The question's `files`, in its order.
    pub files: Vec<Result<FileIdentity, String>>,
    /// Those of the question's `places` that are not there.
    pub missing: Vec<PathBuf>,
    /// The variables that matter to a rank, by name; of secrets a salted hash.
    pub environment: BTreeMap<String, String>,
    /// The GPUs; None where there is no NVIDIA driver.
    pub gpus: Option<Result<GpuState, String>>,
    /// The disk of the run's folder.
    pub run_disk: Option<Disk>,
    /// The disk of the checkpoints, where they go to a folder.
    pub checkpoint_disk: Option<Disk>,
    /// The trial of the store; None where none was asked for.
    pub store: Option<Result<StoreAccess, String>>,
    /// Processes of other launches.
    pub leftovers: Vec<Leftover>,
    /// What finding out took.
    pub seconds: f64,
}

/// Finds out. Takes as long as its slowest part; each is bounded.
#[must_use]
pub fn find_out(question: &Question, environment: &Environment) -> Probe {
    let start = Instant::now();
    // The program is started twice, and both times it is the loading of libtorch that takes the time: side by side.
    thread::scope(|scope| {
        let version = scope.spawn(|| program::version(&question.program));
        let store =
            scope.spawn(|| question.checkpoint_url.as_deref().map(|url| store::write_probe(&question.program, url)));
        let gpus = scope.spawn(gpu::state);
        let launcher = scope.spawn(|| program::identity("/proc/self/exe".as_ref()));
        let program = program::identity(&question.program);
        let checkpoint_folder = question.checkpoint_url.as_deref().filter(|url| !url.contains("://"));
        let broken = || "the probe failed; this is a bug".to_owned();
        let version = version.join().unwrap_or_else(|_| Err(broken()));
        let libtorch = match &version {
            Ok(Some(version)) => version.libtorch_path.as_deref().map(program::libraries).unwrap_or_default(),
            _ => BTreeMap::new(),
        };
        Probe {
            system: system::system(),
            interfaces: interfaces(),
            program,
            launcher: launcher.join().unwrap_or_else(|_| Err(broken())),
            version,
            libtorch,
            files: question.files.iter().map(|file| program::identity(file)).collect(),
            missing: question.places.iter().filter(|place| !place.exists()).cloned().collect(),
            environment: selected(environment, &question.salt),
            gpus: gpus.join().unwrap_or_else(|_| Some(Err(broken()))),
            run_disk: question.run_folder.as_deref().and_then(system::disk),
            checkpoint_disk: checkpoint_folder.and_then(|folder| system::disk(folder.as_ref())),
            store: store.join().unwrap_or_else(|_| Some(Err(broken()))),
            leftovers: leftovers::leftovers(question.launch_id.as_deref()),
            seconds: start.elapsed().as_secs_f64(),
        }
    })
}
