//! The environment variables that the program reads. They are read in one place, at the top, and handed down from there.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use admiral_comm::{ExitCode, MpiLauncher, TaskOfMany, print_error};
use admiral_contract::environment::{self as names, VariableError, check_utf8};
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
    /// Reads the environment of this process. Ends the process if a variable cannot be used, before it has done anything.
    #[must_use]
    pub fn read() -> Self {
        Self::new(std::env::vars_os().collect()).unwrap_or_else(|error| {
            print_error(&error);
            std::process::exit(i32::from(ExitCode::Config as u8))
        })
    }

    /// Returns the environment with these variables.
    ///
    /// # Errors
    /// The first variable that is not UTF-8, or `ADMIRAL_ATTEMPT` if it is no number.
    fn new(variables: BTreeMap<OsString, OsString>) -> Result<Self, VariableError> {
        let known: Vec<&str> =
            admiral_comm::launcher_variables().chain(["RUST_LOG", admiral_inception::VARIABLE]).collect();
        let is_read = |name: &str| {
            let prefixes = ["AWS_", "AZURE_", "GOOGLE_", names::PREFIX];
            prefixes.iter().any(|prefix| name.starts_with(prefix)) || known.contains(&name)
        };
        check_utf8(&variables, is_read)?;
        let path = |name: &str| variables.get(OsStr::new(name)).map(PathBuf::from);
        let text = |name: &str| variables.get(OsStr::new(name))?.to_str().map(str::to_owned);
        let texts = variables.iter().filter_map(|(name, value)| Some((name.to_str()?.into(), value.to_str()?.into())));
        Ok(Self {
            ledger: path(names::LEDGER),
            attempt: attempt(text(names::ATTEMPT).as_deref())?,
            ended_attempts: ended_attempts(&text(names::ENDED_ATTEMPTS).unwrap_or_default()),
            mpi: MpiLauncher::detect(text),
            task: TaskOfMany::detect(text),
            log: LogSettings::from_vars(text),
            gpu: GpuEnvironment::from_vars(|name| variables.get(OsStr::new(name)).cloned()),
            inception: path(admiral_inception::VARIABLE).filter(|path| !path.as_os_str().is_empty()),
            clouds: CloudSettings::from_vars(texts),
        })
    }

    /// Returns whether this process is the first rank, or alone, as far as the environment says.
    #[must_use]
    pub fn is_first_rank(&self) -> bool {
        self.mpi.and_then(|mpi| mpi.rank).is_none_or(|rank| rank == 0)
    }

    /// Returns the default options of stores, with the accounts and credentials of this environment.
    #[must_use]
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions { clouds: self.clouds.clone(), ..StoreOptions::default() }
    }
}

/// The number of this start; the first if the launcher does not say.
fn attempt(variable: Option<&str>) -> Result<u64, VariableError> {
    let refused = || VariableError { name: names::ATTEMPT.into(), reason: "is no number; unset it" };
    variable.map_or(Ok(0), |text| text.trim().parse().map_err(|_| refused()))
}

fn ended_attempts(variable: &str) -> Vec<String> {
    variable.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_start_without_a_number_is_the_first() {
        assert_eq!([None, Some("0"), Some(" 2 ")].map(attempt), [Ok(0), Ok(0), Ok(2)]);
        for text in ["x", "", "-1", "99999999999999999999999"] {
            assert!(attempt(Some(text)).is_err_and(|error| error.name == "ADMIRAL_ATTEMPT"), "{text}");
        }
    }

    #[test]
    fn variables_that_are_read_are_utf8() {
        let with = |name: &str| {
            let value = OsString::from_vec(b"http://host\xff".to_vec());
            Environment::new(BTreeMap::from([(name.into(), value)])).map_err(|error| error.name)
        };
        for name in ["AWS_ENDPOINT_URL", "AZURE_STORAGE_KEY", "GOOGLE_BASE_URL", "ADMIRAL_LOG_FORMAT", "RUST_LOG"] {
            assert_eq!(with(name).unwrap_err(), name);
        }
        for name in ["OMPI_COMM_WORLD_SIZE", "SLURM_PROCID", "PMIX_RANK"] {
            assert_eq!(with(name).unwrap_err(), name);
        }
        assert!(with("LESSOPEN").is_ok());
    }

    #[test]
    fn ended_attempts_are_separated_by_commas() {
        assert_eq!(ended_attempts("other, first"), ["other", "first"]);
        assert!(ended_attempts(" ").is_empty());
    }
}
