//! The environment variables that the program reads. They are read in one place, at the top, and handed down from there.

use std::path::PathBuf;

use admiral_comm::{MpiLauncher, TaskOfMany};
use admiral_contract::environment as names;
use admiral_gpu::GpuEnvironment;
use admiral_storage::{CloudSettings, StoreOptions};
use admiral_telemetry::LogSettings;

/// What the environment says. Every field is one variable, or a group of variables of one component.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `ADMIRAL_LEDGER`: the file in which this rank records its progress, created by the launcher.
    pub ledger: Option<PathBuf>,
    /// `ADMIRAL_ATTEMPT`: how often the launcher has started this run before; 0 without a launcher.
    pub attempt: u64,
    /// `ADMIRAL_ENDED_ATTEMPTS`: the ids of attempts whose processes the launcher knows to be gone, separated by commas.
    pub ended_attempts: Vec<String>,
    /// `OMPI_COMM_WORLD_SIZE` and its like: the MPI launcher that started this process.
    pub mpi: Option<MpiLauncher>,
    /// `SLURM_STEP_NUM_TASKS`, `PBS_TASKNUM` and their like: whether a scheduler started this process with others.
    pub task: Option<TaskOfMany>,
    /// `ADMIRAL_LOG_FORMAT` and `RUST_LOG`: how log lines are written, and which.
    pub log: LogSettings,
    /// `ADMIRAL_NVRTC`, `ADMIRAL_NCCL`, `ADMIRAL_CUDA_DRIVER`, `ADMIRAL_KERNEL_CACHE` and others: where CUDA is.
    pub gpu: GpuEnvironment,
    /// `ADMIRAL_INCEPTION`: the file with the weights of the Inception network of evaluation.
    pub inception: Option<PathBuf>,
    /// `AWS_REGION`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME` and others that start with `AWS_`,
    /// `GOOGLE_` or `AZURE_`: regions, accounts, credentials and endpoints of object stores.
    pub clouds: CloudSettings,
}

impl Environment {
    /// Reads the environment of this process.
    #[must_use]
    pub fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        let vars =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self {
            ledger: std::env::var_os(names::LEDGER).map(PathBuf::from),
            attempt: attempt(text(names::ATTEMPT).as_deref()),
            ended_attempts: ended_attempts(&text(names::ENDED_ATTEMPTS).unwrap_or_default()),
            mpi: MpiLauncher::detect(text),
            task: TaskOfMany::detect(text),
            log: LogSettings::from_vars(text),
            gpu: GpuEnvironment::from_vars(|name| std::env::var_os(name)),
            inception: std::env::var_os(admiral_inception::VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from),
            clouds: CloudSettings::from_vars(vars),
        }
    }

    /// Returns the default options of stores, with the accounts and credentials of this environment.
    #[must_use]
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions { clouds: self.clouds.clone(), ..StoreOptions::default() }
    }
}

/// The number of this start; the first if the launcher does not say.
fn attempt(variable: Option<&str>) -> u64 {
    variable.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn ended_attempts(variable: &str) -> Vec<String> {
    variable.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_without_a_number_is_the_first() {
        assert_eq!([None, Some("0"), Some(" 2 "), Some("x")].map(attempt), [0, 0, 2, 0]);
    }

    #[test]
    fn ended_attempts_are_separated_by_commas() {
        assert_eq!(ended_attempts("other, first"), ["other", "first"]);
        assert!(ended_attempts(" ").is_empty());
    }
}
