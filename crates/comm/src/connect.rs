//! Connects this rank to the others, depending on how the process was started.

use std::sync::Arc;

use admiral_contract::Ledger;

use crate::collective::Collective;
use crate::error::CollectiveError;
use crate::mpi::Mpi;
use crate::single::Single;

/// The environment variables that MPI launchers set, and whether the value is the number of ranks. In order: Open MPI;
/// MPICH, Intel MPI and `srun --mpi=pmi2`; MVAPICH; `srun --mpi=pmix` and PRRTE.
const LAUNCHER_VARIABLES: [(&str, bool); 4] =
    [("OMPI_COMM_WORLD_SIZE", true), ("PMI_SIZE", true), ("MV2_COMM_WORLD_SIZE", true), ("PMIX_RANK", false)];

/// The MPI launcher that started this process, according to the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MpiLauncher {
    /// The environment variable that the launcher was recognized by.
    pub variable: &'static str,
    /// The number of ranks, if the variable holds it.
    pub world_size: Option<usize>,
}

impl MpiLauncher {
    /// Recognizes the launcher by its environment variables, which `get` reads. Returns `None` if no MPI launcher started
    /// this process.
    pub fn detect(get: impl Fn(&str) -> Option<String>) -> Option<Self> {
        LAUNCHER_VARIABLES.iter().find_map(|&(variable, is_size)| {
            let value = get(variable)?;
            let world_size = if is_size { value.trim().parse().ok() } else { None };
            Some(Self { variable, world_size })
        })
    }
}

/// Joins the ranks of `launcher`. Returns [`Mpi`] under an MPI launcher, otherwise [`Single`], which makes no MPI calls.
/// Must be called once, on the main thread, which must also drop the result. Collectives are recorded in `ledger`.
///
/// # Errors
/// If MPI cannot be initialized, or reports another number of ranks than the launcher.
pub fn connect(launcher: Option<MpiLauncher>, ledger: Arc<Ledger>) -> Result<Box<dyn Collective>, CollectiveError> {
    let Some(launcher) = launcher else { return Ok(Box::new(Single)) };
    let mpi = Mpi::connect(ledger)?;
    match launcher.world_size {
        Some(declared) if declared != mpi.world_size() => Err(CollectiveError::WorldMismatch {
            variable: launcher.variable,
            declared,
            found: mpi.world_size(),
            library: Mpi::library(),
        }),
        _ => Ok(Box::new(mpi)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Option<MpiLauncher> {
        MpiLauncher::detect(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_process_without_a_launcher_has_no_mpi() {
        assert_eq!(detect(&[]), None);
        // Inside a Slurm allocation, but not started by srun.
        assert_eq!(detect(&[("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "8")]), None);
    }

    #[test]
    fn launchers_are_recognized_and_their_world_size_is_read() {
        for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"] {
            assert_eq!(detect(&[(variable, "8")]), Some(MpiLauncher { variable, world_size: Some(8) }));
        }
        assert_eq!(detect(&[("PMIX_RANK", "3")]), Some(MpiLauncher { variable: "PMIX_RANK", world_size: None }));
    }

    #[test]
    fn a_variable_with_the_world_size_takes_precedence() {
        let both = detect(&[("PMIX_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")]);
        assert_eq!(both, Some(MpiLauncher { variable: "OMPI_COMM_WORLD_SIZE", world_size: Some(2) }));
    }
}
