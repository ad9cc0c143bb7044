//! The types of `manifest.json`, `latest.json` and `owner.json`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::role::Role;

/// `manifest.json`: the description of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// The schema version of this file.
    pub schema_version: u32,
    /// The time at which the checkpoint was published, as RFC 3339 in UTC.
    pub created: String,
    /// The version of Admiral that wrote it.
    pub code_version: String,
    /// The run and the attempt that wrote the checkpoint.
    pub writer: Writer,
    /// The training task: `diffusion`, `classifier` or `super_resolution`.
    pub task: String,
    /// The complete configuration of the run, with defaults filled in.
    pub configuration: serde_json::Value,
    /// The state of training.
    pub training: TrainingState,
    /// The number of ranks that wrote the checkpoint. Any number of ranks can read it.
    pub world_size: usize,
    /// The parameters of the network, in the order of the released checkpoints.
    pub parameters: Vec<Parameter>,
    /// The files of the checkpoint, without the manifest.
    pub files: Vec<FileRecord>,
    /// The tensors: each role has each parameter exactly once.
    pub tensors: Vec<TensorRecord>,
}

/// A run and one of its attempts. An attempt is one start of the run's processes, until they exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Writer {
    /// The run's random ID. It is drawn when training starts at step 0 and kept by every attempt that resumes the run.
    pub run_id: String,
    /// The attempt's random ID, drawn at each start.
    pub attempt_id: String,
    /// The host of the attempt's rank 0.
    pub host: String,
    /// The time at which the attempt started, as RFC 3339 in UTC.
    pub started: String,
}

/// The state of training. Together with the tensors it is all that a resumed run needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainingState {
    /// The number of steps taken. The first step of a resumed run has this number, counted from 0.
    pub step: u64,
    /// The global index of the first sample that no step has used.
    pub next_sample_index: u64,
    /// The number of optimizer updates, for Adam's bias correction. Steps that were skipped because the gradients
    /// overflowed do not count.
    pub optimizer_steps: u64,
    /// The base-2 logarithm of the loss scale; null if training uses none.
    pub lg_loss_scale: Option<f64>,
    /// The state of the timestep sampler (the loss history of the loss-aware sampler); null if it has none.
    pub timestep_sampler: Option<serde_json::Value>,
    /// The images that the run trains on; absent in checkpoints of earlier versions and of imported weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImagesRecord>,
}

/// The images of a run. With the seed, they determine the image of each sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImagesRecord {
    /// Their number.
    pub num_images: u64,
    /// The SHA-256 of their names and classes, in lower-case hexadecimal.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
}

/// A parameter of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Parameter {
    /// Its name in the released checkpoints: `input_blocks.1.0.in_layers.2.weight`.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
}

impl Parameter {
    /// Returns the number of values, or `None` if it overflows `usize`.
    #[must_use]
    pub fn num_elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n))
    }
}

/// A file of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileRecord {
    /// Its path relative to the manifest's folder, separated by `/`: `master/model-00001-of-00002.safetensors`.
    pub path: String,
    /// Its length in bytes.
    pub length: u64,
    /// The SHA-256 of its bytes, in lower-case hexadecimal.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
}

/// A tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TensorRecord {
    /// The set of tensors that it belongs to.
    pub role: Role,
    /// The name of the parameter, which is also the name of the tensor in the file.
    pub name: String,
    /// The path of the file that holds it, as in `files`.
    pub file: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its data type.
    pub dtype: Dtype,
}

/// The data type of a tensor, by its name in safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Dtype {
    /// IEEE single precision, little-endian.
    F32,
}

impl Dtype {
    /// Returns the size of a value in bytes.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
        }
    }
}

/// `latest.json`: the newest checkpoint, for readers that do not want to list the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Latest {
    /// The schema version of this file.
    pub schema_version: u32,
    /// The step of the checkpoint.
    pub step: u64,
    /// The folder of the checkpoint, relative to the folder of `latest.json`.
    pub folder: String,
}

/// `owner.json`: the lease of the attempt that writes checkpoints to a folder. It prevents two runs from writing to the
/// same folder by mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// The schema version of this file.
    pub schema_version: u32,
    /// The run and the attempt that hold the lease.
    pub writer: Writer,
    /// The process of the attempt's rank 0.
    pub process: Process,
    /// The step that the attempt resumed from, whose checkpoint must not be deleted; null if it started at step 0.
    pub resumed_from: Option<u64>,
    /// A counter that grows while the attempt runs.
    pub beat: u64,
    /// Whether the attempt has released the lease at its end.
    pub is_released: bool,
}

/// A process, identified by values that other processes of the same machine can look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// The boot ID of the machine and the process ID namespace. Process IDs are unique only within both.
    pub machine: String,
    /// The process ID.
    pub id: u32,
    /// The time at which the process started, in the kernel's clock ticks since boot. It distinguishes processes that
    /// reuse a process ID.
    pub start_ticks: u64,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {} (attempt {} on host {}, begun {})", self.run_id, self.attempt_id, self.host, self.started)
    }
}

impl Manifest {
    /// Returns the parameters of the network, in the order of the released checkpoints.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Returns the roles, in the order in which they first appear.
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        let mut roles: Vec<Role> = Vec::new();
        for tensor in &self.tensors {
            if !roles.contains(&tensor.role) {
                roles.push(tensor.role);
            }
        }
        roles
    }
}
