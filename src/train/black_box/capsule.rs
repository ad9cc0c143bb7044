//! The record of a step that went wrong.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::path::Path;

use admiral_checkpoint::{ImagesRecord, Writer};
use admiral_contract::BatchDivision;
use admiral_contract::files::open_regular;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::number::Number;

/// The version of the format. Readers refuse later ones.
pub const FORMAT: u32 = 1;

/// The name of a capsule's file in its folder.
pub(super) const FILE: &str = "capsule.json";

/// The largest file that is read, in bytes: a capsule has about 100 bytes for each sample of a step.
const MAX_BYTES: u64 = 1 << 28;

/// The largest number of ranks of a capsule that is read.
const MAX_RANKS: u64 = 1 << 20;

/// Why a capsule was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The sum of the gradients was not finite.
    NotFinite,
    /// The loss exceeded its bound.
    LossJump,
}

/// The record of a step that went wrong: what its ranks saw, and where a replay starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capsule {
    /// The version of the format: [`FORMAT`].
    pub format: u32,
    /// Why the capsule was written.
    pub reason: Reason,
    /// What happened, for people.
    pub message: String,
    /// When, in seconds since 1970-01-01 in UTC.
    pub time: f64,
    /// The step, from 0: the number of steps before it.
    pub step: u64,
    /// Where a replay starts.
    pub start: Start,
    /// The run and the attempt that took the step.
    pub writer: Writer,
    /// The division of the samples over the ranks and passes.
    pub batch: BatchRecord,
    /// The seed of the run.
    pub seed: u64,
    /// The images of the run.
    pub images: ImagesRecord,
    /// The type of the torso: fp32, fp16 or bf16.
    pub precision: Value,
    /// The device of rank 0: cpu or cuda.
    pub device: String,
    /// The implementation of fused operations on rank 0.
    pub kernels: Value,
    /// The versions of Admiral, libtorch and MPI on rank 0.
    pub versions: Value,
    /// The base-2 logarithm of the loss scale of the step; 0 without loss scaling.
    pub lg_loss_scale: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The mean loss over all samples.
    pub loss: Number,
    /// The median of the losses before, if the loss jumped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_loss: Option<Number>,
    /// The l2 norm of the unscaled gradient of each parameter, summed over the ranks, in the network's order.
    pub gradients: Vec<GradientRecord>,
    /// What each rank saw, in rank order.
    pub ranks: Vec<RankRecord>,
    /// The effective configuration of the run.
    pub configuration: Value,
}

/// The division of a step's samples. Step s has the samples from s * `global_batch` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRecord {
    /// The number of ranks.
    pub world: u64,
    /// The number of samples of a step over all ranks.
    pub global_batch: u64,
    /// The number of samples of a pass.
    pub microbatch: u64,
    /// The number of passes of a rank in a step.
    pub accumulation: u64,
}

impl From<BatchDivision> for BatchRecord {
    fn from(division: BatchDivision) -> Self {
        let BatchDivision { world_size, global_batch, microbatch, accumulation } = division;
        Self { world: world_size, global_batch, microbatch, accumulation }
    }
}

/// Where a replay starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The newest checkpoint before the step; null if there was none. A replay then starts from the initial values.
    pub checkpoint: Option<CheckpointPlace>,
    /// The number of steps between the start and the step of the capsule.
    pub steps_since: u64,
}

/// The place of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointPlace {
    /// The store that holds it.
    pub store: String,
    /// Its step.
    pub step: u64,
}

/// The gradient of a parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradientRecord {
    /// The name of the parameter.
    pub name: String,
    /// The norm of its gradient.
    pub norm: Number,
}

/// What a rank saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankRecord {
    /// The name of its host.
    pub host: String,
    /// The parameters in its memory with a value that is not finite, in the network's order; at most ten.
    pub bad_parameters: Vec<String>,
    /// The parameter with a gradient that is not finite which backward reached first, before the sum over the ranks.
    pub bad_gradient: Option<String>,
    /// Its samples, in the order in which it saw them.
    pub samples: Vec<SampleRecord>,
}

/// A sample of a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// Its index in the run.
    pub index: u64,
    /// Its diffusion timestep.
    pub timestep: i64,
    /// The importance weight of the timestep.
    pub weight: Number,
    /// Its loss, with the weight.
    pub loss: Number,
}

impl Capsule {
    /// Reads a capsule: a file, or the folder that holds it.
    ///
    /// # Errors
    /// When there is none, or it is not one of a known format, with the path and the reason.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let refuse = |reason: String| format!("{}: {reason}", file.display());
        let bytes = read_file(&file).map_err(|error| {
            refuse(format!("{error}; name a capsule, such as RUN/black-box/step-000000123-not-finite"))
        })?;
        Self::parse(&bytes).map_err(refuse)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let versioned: Versioned =
            serde_json::from_slice(bytes).map_err(|error| format!("this is not a capsule: {error}"))?;
        if versioned.format != FORMAT {
            return Err(format!(
                "the capsule has format {}, this Admiral reads format {FORMAT}; use the version that wrote it",
                versioned.format
            ));
        }
        let capsule: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("the capsule is damaged: {error}"))?;
        capsule.check().map_err(|reason| format!("the capsule is damaged: {reason}"))?;
        Ok(capsule)
    }

    /// Returns the number of steps done at the start of a replay.
    #[must_use]
    pub fn first_step(&self) -> u64 {
        self.start.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step)
    }

    /// Returns the division of the samples.
    ///
    /// # Errors
    /// When it is none.
    pub fn division(&self) -> Result<BatchDivision, String> {
        let BatchRecord { world, global_batch, microbatch, .. } = self.batch;
        let division = BatchDivision::new(global_batch, microbatch, world).map_err(|error| error.to_string())?;
        if BatchRecord::from(division) != self.batch {
            return Err(format!("`batch` is inconsistent: {:?}", self.batch));
        }
        Ok(division)
    }

    /// Checks what a replay relies on.
    fn check(&self) -> Result<(), String> {
        let division = self.division()?;
        if division.world_size > MAX_RANKS || self.ranks.len() as u64 != division.world_size {
            return Err(format!("`ranks` has {} entries for {} ranks", self.ranks.len(), division.world_size));
        }
        if self.ranks.iter().any(|rank| rank.samples.len() as u64 != division.share()) {
            return Err(format!("a rank does not have {} samples", division.share()));
        }
        if self.first_step().checked_add(self.start.steps_since) != Some(self.step) {
            return Err("`start` and `step` do not fit together".into());
        }
        if self.step.checked_add(1).and_then(|steps| steps.checked_mul(division.global_batch)).is_none() {
            return Err(format!("`step` is {}, which no run reaches", self.step));
        }
        Ok(())
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path, OpenOptions::new().read(true))?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("the file has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}
