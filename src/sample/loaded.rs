//! A network with the weights of a checkpoint, for sampling.

use admiral_checkpoint::{Checkpoint, Role, TensorTarget, find_checkpoint};
use admiral_comm::Collective;
use admiral_config::format_mistakes;
use admiral_storage::{StoreOptions, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::model::{Network, ParamSpecs, Params, Task};
use crate::run_config::RunConfig;

use super::error::Error;

/// What the output of a network depends on besides its inputs: two models with the same identity have the same weights,
/// wherever their checkpoints are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The run that wrote the checkpoint.
    pub run: String,
    /// The step of the checkpoint.
    pub step: u64,
    /// The weights: `master`, or an average such as `ema-0.9999`.
    pub weights: String,
    /// The SHA-256 of the names, shapes and file hashes of the weights, as hexadecimal digits.
    pub sha256: String,
}

/// A checkpoint whose configuration has been read, but not its weights.
#[derive(Debug)]
pub struct OpenedModel {
    checkpoint: Checkpoint,
    role: Role,
    /// The configuration with which the network was trained.
    pub config: RunConfig,
    /// The structure of the network.
    pub network: Network,
    specs: ParamSpecs,
}

/// A network with its weights.
#[derive(Debug)]
pub struct LoadedModel {
    /// The configuration with which the network was trained.
    pub config: RunConfig,
    /// The structure of the network.
    pub network: Network,
    /// The weights, on the device for which they were loaded.
    pub params: Params,
    /// Which weights they are.
    pub identity: Identity,
}

impl OpenedModel {
    /// Opens the checkpoint at `location`: a checkpoint's folder, a folder of checkpoints or a run's folder, as a path or
    /// a bucket's URL. `weights` is `ema` (the first average), `master`, or an average such as `ema-0.9999`; by default the
    /// first average, or `master` if there is none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is none, [`Error::Refused`] if its configuration cannot be used or it does not have
    /// these weights.
    pub fn open(location: &str, weights: Option<&str>, options: &StoreOptions) -> Result<Self, Error> {
        let checkpoint = find_checkpoint(location, options)?;
        let url = checkpoint.url();
        let config: RunConfig = serde_json::from_value(checkpoint.manifest().configuration.clone())
            .map_err(|error| Error::Refused(format!("{url}: its configuration cannot be read: {error}")))?;
        let role = choose_role(&checkpoint, weights)?;
        let spec = config.network_spec();
        let spec = spec.map_err(|mistakes| Error::Refused(format!("{url}: {}", format_mistakes(&mistakes))))?;
        let mistakes = config.diffusion.validate();
        if !mistakes.is_empty() {
            return Err(Error::Refused(format!("{url}: {}", format_mistakes(&mistakes))));
        }
        let (network, specs) = Network::build(&spec);
        let shapes: Vec<(&str, Vec<i64>)> = checkpoint
            .manifest()
            .parameters()
            .iter()
            .map(|parameter| (parameter.name.as_str(), parameter.shape.iter().map(|&n| n as i64).collect()))
            .collect();
        specs.check(shapes.iter().map(|(name, shape)| (*name, shape.as_slice())))?;
        Ok(Self { checkpoint, role, config, network, specs })
    }

    /// Returns the URL of the checkpoint.
    #[must_use]
    pub fn url(&self) -> String {
        self.checkpoint.url()
    }

    /// Checks the task of the model. `purpose` says what it is needed for.
    ///
    /// # Errors
    /// [`Error::Refused`] if it has another task.
    pub fn check_task(&self, task: Task, purpose: &str) -> Result<(), Error> {
        if self.config.task == task {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "{} is of task {}, and {purpose} needs one of task {}",
            self.url(),
            self.config.task.name(),
            task.name()
        )))
    }

    /// Returns which weights this model has.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let manifest = self.checkpoint.manifest();
        let mut hash = Sha256::new();
        for tensor in manifest.tensors.iter().filter(|tensor| tensor.role == self.role) {
            let file = manifest.files.iter().find(|file| file.path == tensor.file);
            let sha256 = file.map_or("", |file| file.sha256.as_str());
            hash.update(format!("{}\n{:?}\n{sha256}\n", tensor.name, tensor.shape));
        }
        Identity {
            run: manifest.writer.run_id.clone(),
            step: manifest.training.step,
            weights: self.role.to_string(),
            sha256: hex(hash.finalize()),
        }
    }

    /// Reads the weights to `device`, those of the torso as `torso`. Every rank calls it; each file is read by one rank.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if they cannot be read or are damaged, the same on every rank.
    pub fn load(self, torso: Kind, device: Device, collective: &dyn Collective) -> Result<LoadedModel, Error> {
        let identity = self.identity();
        let shapes: Vec<Vec<usize>> =
            self.specs.iter().map(|spec| spec.shape.iter().map(|&n| n as usize).collect()).collect();
        let mut values: Vec<Vec<f32>> = self.specs.iter().map(|spec| vec![0.0; spec.num_elements()]).collect();
        let mut targets: Vec<TensorTarget> = (self.specs.iter().zip(&shapes).zip(&mut values))
            .map(|((spec, shape), values)| TensorTarget { role: self.role, name: &spec.name, shape, values })
            .collect();
        self.checkpoint.read(collective, &mut targets)?;
        let mut named = self.specs.iter().zip(&values);
        if collective.rank() == 0
            && let Some((spec, _)) = named.find(|(_, values)| values.iter().any(|value| !value.is_finite()))
        {
            tracing::warn!(
                "{}: {} has values that are NaN or infinite; what is drawn will have too",
                self.url(),
                spec.name
            );
        }
        let tensors = self.specs.iter().zip(&values).map(|(spec, values)| {
            let kind = if spec.torso { torso } else { Kind::Float };
            Tensor::from_slice(values).view(spec.shape.as_slice()).to_kind(kind).to_device(device)
        });
        let params = Params::new(tensors.collect());
        Ok(LoadedModel { config: self.config, network: self.network, params, identity })
    }
}

/// Returns the role of named weights: `ema` (the first average), `master`, or an average by its rate, such as
/// `ema-0.9999`. By default the first average, or `master` if there is none.
///
/// # Errors
/// [`Error::Refused`] if the checkpoint has no such weights. The message lists the weights that it has.
pub fn choose_role(checkpoint: &Checkpoint, weights: Option<&str>) -> Result<Role, Error> {
    let roles = checkpoint.manifest().roles();
    let networks: Vec<Role> =
        roles.into_iter().filter(|role| matches!(role, Role::Master | Role::Ema { .. })).collect();
    let average = || networks.iter().find(|role| matches!(role, Role::Ema { .. }));
    let found = match weights {
        None => average().or(networks.first()),
        Some("ema") => average(),
        Some(name) => networks.iter().find(|role| role.to_string() == name),
    };
    found.copied().ok_or_else(|| {
        let names: Vec<String> = networks.iter().map(Role::to_string).collect();
        let wanted = weights.unwrap_or("ema");
        Error::Refused(format!("{} has no weights {wanted:?}; it has {}", checkpoint.url(), names.join(", ")))
    })
}
