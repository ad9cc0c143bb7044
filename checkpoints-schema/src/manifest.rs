//! The types of `manifest.json`, `latest.json` and `owner.json`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::role::Role;

/// `manifest.json`: everything that a checkpoint's tensors do not say themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// The version of this form.
    pub schema_version: u32,
    /// When the checkpoint was published, as RFC 3339 in UTC.
    pub created: String,
    /// The version of Admiral that wrote it.
    pub code_version: String,
    /// The run, and which of its attempts wrote the checkpoint.
    pub writer: Writer,
    /// What the network is trained for: `diffusion`, `classifier` or `super_resolution`.
    pub task: String,
    /// The whole effective configuration of the run.
    pub configuration: serde_json::Value,
    /// Where training stands.
    pub training: TrainingState,
    /// The number of ranks that wrote the checkpoint. It can be read by any number.
    pub world_size: usize,
    /// Every parameter of the network, in the released checkpoints' order.
    pub parameters: Vec<Parameter>,
    /// Every file of the checkpoint but the manifest.
    pub files: Vec<FileRecord>,
    /// Every tensor: each role has each parameter once.
    pub tensors: Vec<TensorRecord>,
}

/// A run and one of its attempts: the processes from one start to their end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Writer {
    /// Drawn when the run began at step 0, and kept by every attempt that resumes it.
    pub run_id: String,
    /// Drawn at each start.
    pub attempt_id: String,
    /// The host of the attempt's rank 0.
    pub host: String,
    /// When the attempt began, as RFC 3339 in UTC.
    pub started: String,
}

/// Where training stands: with the tensors, all that a resumed run needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainingState {
    /// Steps taken; the resumed run's first step has this number.
    pub step: u64,
    /// The global index of the first sample that no step has seen.
    pub next_sample_index: u64,
    /// Steps in which the optimizer moved: those that the loss scale did not skip. Adam's bias correction counts them.
    pub optimizer_steps: u64,
    /// The base-2 logarithm of the loss scale; null where training needs none.
    pub lg_loss_scale: Option<f64>,
    /// What the timestep sampler has learned (the loss history of the loss-aware one); null where it learns nothing.
    pub timestep_sampler: Option<serde_json::Value>,
}

/// A parameter of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Parameter {
    /// The name that the released checkpoints give it: `input_blocks.1.0.in_layers.2.weight`.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
}

impl Parameter {
    /// The number of values; none where it is more than this machine can count.
    #[must_use]
    pub fn num_elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n))
    }
}

/// A file of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileRecord {
    /// Its path from the manifest's folder, with `/` between parts: `master/model-00001-of-00002.safetensors`.
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
    /// What it is to the run.
    pub role: Role,
    /// The parameter's name, which is also the tensor's name in the file.
    pub name: String,
    /// The path of the file that holds it, as `files` has it.
    pub file: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The type of its values.
    pub dtype: Dtype,
}

/// The type of a tensor's values, by safetensors' name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Dtype {
    /// IEEE single precision, little-endian.
    F32,
}

impl Dtype {
    /// The bytes of a value.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
        }
    }
}

/// `latest.json`: the newest checkpoint of a place, for readers that do not want to list it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Latest {
    /// The version of this form.
    pub schema_version: u32,
    /// The step.
    pub step: u64,
    /// The checkpoint's folder, from where `latest.json` lies.
    pub folder: String,
}

/// `owner.json`: who writes to a place, so that two runs do not write to the same by mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// The version of this form.
    pub schema_version: u32,
    /// The run and the attempt.
    pub writer: Writer,
    /// The process of the attempt's rank 0.
    pub process: Process,
    /// The step that the attempt resumed from, whose checkpoint nobody deletes under it; null where it began anew.
    pub resumed_from: Option<u64>,
    /// Grows while the attempt lives.
    pub beat: u64,
    /// Whether the attempt has ended in good order, and the place is free.
    pub is_released: bool,
}

/// A process, by what another process of the same machine can look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// The machine since it was started, and the process namespace there: process numbers mean something in it alone.
    pub machine: String,
    /// The process number.
    pub id: u32,
    /// When the process began, in the kernel's ticks since the machine was started: numbers are used again.
    pub start_ticks: u64,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {} (attempt {} on host {}, begun {})", self.run_id, self.attempt_id, self.host, self.started)
    }
}

impl Manifest {
    /// Every parameter of the network, in the released checkpoints' order.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The roles, in the order in which they first appear.
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
