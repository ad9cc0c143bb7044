//! Values that are derived from a configuration, for programs.

use std::path::{Path, PathBuf};

use admiral_config::Invalid;
use admiral_contract::world_sizes;
use admiral_storage::Location;
use serde::Serialize;

use crate::model::Network;

use super::config::RunConfig;

/// The largest number of ranks that is listed.
const MAX_RANKS: u64 = 4096;

/// The values that a program needs to start and watch a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The number of trained values.
    pub parameters: u64,
    /// The numbers of ranks that can divide the global batch, ascending, up to 4096.
    pub worlds: Vec<u64>,
    /// The bytes of a checkpoint without its manifest: masters, two moments and all averages in float32.
    pub checkpoint_bytes: u64,
    /// The location of the checkpoints: the absolute path of a folder, or the URL of a bucket's prefix.
    pub checkpoint_url: String,
    /// The absolute path of the run's folder.
    pub run_folder: PathBuf,
}

impl RunConfig {
    /// Returns the facts of a valid configuration. Relative paths start at this process's working directory.
    ///
    /// # Errors
    /// When the configuration makes no valid network, or the location of checkpoints is invalid.
    pub fn facts(&self) -> Result<Facts, Vec<Invalid>> {
        let (_, specs) = Network::build(&self.network_spec()?);
        let parameters = specs.num_elements() as u64;
        let run_folder = absolute(Path::new(&self.run.folder), "run.folder")?;
        let location = self.checkpoint.location(&run_folder);
        let location = location.map_err(|error| vec![Invalid::new("checkpoint.url", error.to_string())])?;
        let checkpoint_url = match location {
            Location::Folder(path) => absolute(&path, "checkpoint.url")?.display().to_string(),
            bucket => bucket.to_string(),
        };
        let worlds = world_sizes(self.training.global_batch, self.training.microbatch, MAX_RANKS);
        Ok(Facts {
            parameters,
            worlds,
            checkpoint_bytes: self.checkpoint_bytes(parameters),
            checkpoint_url,
            run_folder,
        })
    }

    /// Returns the bytes of a checkpoint without its manifest, for a network with this number of parameters.
    pub fn checkpoint_bytes(&self, parameters: u64) -> u64 {
        parameters * size_of::<f32>() as u64 * (3 + self.optimizer.ema_rates.len() as u64)
    }
}

fn absolute(path: &Path, field: &str) -> Result<PathBuf, Vec<Invalid>> {
    std::path::absolute(path).map_err(|error| vec![Invalid::new(field, format!("{}: {error}", path.display()))])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn folders_are_absolute_paths() {
        let mut config = RunConfig::default();
        config.run.folder = "runs/own".into();
        let here = std::env::current_dir().unwrap();
        let facts = config.facts().unwrap();
        assert_eq!(facts.run_folder, here.join("runs/own"));
        assert_eq!(facts.checkpoint_url, here.join("runs/own/checkpoints").display().to_string());
        for scheme in ["s3", "gs", "az"] {
            config.checkpoint.url = Some(format!("{scheme}://bucket/own/"));
            assert_eq!(config.facts().unwrap().checkpoint_url, format!("{scheme}://bucket/own"));
        }
    }

    #[test]
    fn a_checkpoint_has_the_bytes_of_masters_moments_and_averages() {
        let mut config = RunConfig::default();
        config.optimizer.ema_rates = vec![0.9, 0.99];
        config.training.global_batch = 3 * 8192;
        config.training.microbatch = 2;
        let facts = config.facts().unwrap();
        assert_eq!(facts.checkpoint_bytes, facts.parameters * 20);
        assert!(facts.worlds.contains(&4096) && facts.worlds.iter().all(|&world| world <= 4096), "{:?}", facts.worlds);
        assert_eq!(facts.worlds[..3], [1, 2, 3]);
    }
}
