//! The report of one host about itself. Findings are made elsewhere, because they need the other hosts' reports.

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

/// The question to a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Question {
    /// The path of `admiral`.
    pub program: PathBuf,
    /// Files that must be identical on every host: the configuration of a training run.
    pub files: Vec<PathBuf>,
    /// Files or folders that every host must have: the data, or the checkpoint to draw from.
    pub places: Vec<PathBuf>,
    /// The run's folder.
    pub run_folder: Option<PathBuf>,
    /// The place of the checkpoints or images, to which the probe writes; `None` to skip that.
    pub checkpoint_url: Option<String>,
    /// Processes of this launch are no leftovers.
    pub launch_id: Option<String>,
    /// The salt for the hashes of secrets, so that they show only whether two hosts have the same secret.
    pub salt: String,
}

/// The report of a host. An `Err` says why something is not known, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Kernel, limits, memory.
    pub system: System,
    /// The network interfaces that are up.
    pub interfaces: Vec<Interface>,
    /// The program `admiral`.
    pub program: Result<FileIdentity, String>,
    /// The program `admiral-launch`, as it runs on this host.
    pub launcher: Result<FileIdentity, String>,
    /// The program's version; `None` if this build does not report it.
    pub version: Result<Option<ProgramVersion>, String>,
    /// The files of libtorch, by name.
    pub libtorch: BTreeMap<String, FileIdentity>,
    /// The question's `files`, in order.
    pub files: Vec<Result<FileIdentity, String>>,
    /// The question's `places` that do not exist.
    pub missing: Vec<PathBuf>,
    /// The variables that affect a rank, by name. Secrets are salted hashes.
    pub environment: BTreeMap<String, String>,
    /// The GPUs; `None` if there is no NVIDIA driver.
    pub gpus: Option<Result<GpuState, String>>,
    /// The disk of the run's folder.
    pub run_disk: Option<Disk>,
    /// The disk of the checkpoints or images, if they go to a folder.
    pub checkpoint_disk: Option<Disk>,
    /// The result of writing to the store; `None` if that was skipped.
    pub store: Option<Result<StoreAccess, String>>,
    /// Processes of other launches.
    pub leftovers: Vec<Leftover>,
    /// The duration of the probe, in seconds.
    pub seconds: f64,
}

/// Examines this host. Takes as long as the slowest part; each part has a timeout.
#[must_use]
pub fn examine_host(question: &Question, environment: &Environment) -> Probe {
    let start = Instant::now();
    // The program is started twice, in parallel, because loading libtorch takes most of the time.
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
