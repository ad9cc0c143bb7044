//! Choosing the collective that fits how the process was started.

use std::sync::Arc;

use admiral_contract::Ledger;

use crate::collective::Collective;
use crate::error::CollectiveError;
use crate::mpi::Mpi;
use crate::single::Single;

/// The variables by which launchers tell a process that it is a rank, and whether the value is the number of ranks. In
/// order: Open MPI; MPICH, Intel MPI and `srun --mpi=pmi2`; MVAPICH; `srun --mpi=pmix` and PRRTE.
const LAUNCHERS: [(&str, bool); 4] =
    [("OMPI_COMM_WORLD_SIZE", true), ("PMI_SIZE", true), ("MV2_COMM_WORLD_SIZE", true), ("PMIX_RANK", false)];

/// The MPI launcher that started this process, as the environment describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MpiLauncher {
    /// The environment variable by which the launcher was recognized.
    pub variable: &'static str,
    /// The number of ranks, if the variable holds it.
    pub world_size: Option<usize>,
}

impl MpiLauncher {
    /// Recognizes the launcher from environment variables, which `get` reads. `None` if no MPI launcher started this
    /// process.
    pub fn detect(get: impl Fn(&str) -> Option<String>) -> Option<Self> {
        LAUNCHERS.iter().find_map(|&(variable, is_size)| {
            let value = get(variable)?;
            let world_size = if is_size { value.trim().parse().ok() } else { None };
            Some(Self { variable, world_size })
        })
    }
}

/// Joins the ranks of `launcher`: [`Mpi`] under an MPI launcher, otherwise [`Single`], which does not touch MPI. Call it
/// once, on the main thread, which must also drop the result. Collectives are recorded in `ledger`.
///
/// # Errors
/// When MPI cannot be started, or sees another number of ranks than the launcher.
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

    fn launch_of(variables: &[(&str, &str)]) -> Option<MpiLauncher> {
        MpiLauncher::detect(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_process_started_by_hand_is_alone() {
        assert_eq!(launch_of(&[]), None);
        // Inside a Slurm allocation, but not started by srun.
        assert_eq!(launch_of(&[("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "8")]), None);
    }

    #[test]
    fn launchers_are_recognized_and_their_world_is_read() {
        for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"] {
            assert_eq!(launch_of(&[(variable, "8")]), Some(MpiLauncher { variable, world_size: Some(8) }));
        }
        assert_eq!(launch_of(&[("PMIX_RANK", "3")]), Some(MpiLauncher { variable: "PMIX_RANK", world_size: None }));
    }

    #[test]
    fn the_variable_that_names_the_world_wins() {
        let both = launch_of(&[("PMIX_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")]);
        assert_eq!(both, Some(MpiLauncher { variable: "OMPI_COMM_WORLD_SIZE", world_size: Some(2) }));
    }
}
