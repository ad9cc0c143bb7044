//! Which collective a process needs, read from what its launcher put into the environment.

use super::{Collective, CollectiveError, Mpi, Single};

/// The variables by which launchers tell a process that it is a rank, with the number of ranks where the
/// variable says it. Open MPI; MPICH, Intel MPI and `srun --mpi=pmi2`; MVAPICH; `srun --mpi=pmix` and PRRTE.
const LAUNCHERS: [(&str, bool); 4] =
    [("OMPI_COMM_WORLD_SIZE", true), ("PMI_SIZE", true), ("MV2_COMM_WORLD_SIZE", true), ("PMIX_RANK", false)];

/// What the environment says about the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Launch {
    /// The variable that says so.
    variable: &'static str,
    /// The number of ranks, where the variable says it.
    world_size: Option<usize>,
}

/// Reads the launcher from the environment, given by `get`: `None` for a process that no MPI launcher started.
fn launch(get: impl Fn(&str) -> Option<String>) -> Option<Launch> {
    LAUNCHERS.iter().find_map(|&(variable, is_size)| {
        let value = get(variable)?;
        let world_size = if is_size { value.trim().parse().ok() } else { None };
        Some(Launch { variable, world_size })
    })
}

/// Joins the ranks that the launcher started: [`Mpi`] under `mpirun` and its like, otherwise [`Single`], without
/// touching MPI. Call it once, on the main thread, which must also drop the result.
///
/// # Errors
/// When MPI cannot be started, or sees another number of ranks than the launcher.
pub fn connect() -> Result<Box<dyn Collective>, CollectiveError> {
    let Some(launch) = launch(|name| std::env::var(name).ok()) else {
        return Ok(Box::new(Single));
    };
    let mpi = Mpi::connect()?;
    match launch.world_size {
        Some(declared) if declared != mpi.world_size() => Err(CollectiveError::WorldMismatch {
            variable: launch.variable,
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

    fn launch_of(variables: &[(&str, &str)]) -> Option<Launch> {
        launch(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
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
            assert_eq!(launch_of(&[(variable, "8")]), Some(Launch { variable, world_size: Some(8) }));
        }
        assert_eq!(launch_of(&[("PMIX_RANK", "3")]), Some(Launch { variable: "PMIX_RANK", world_size: None }));
    }

    #[test]
    fn the_variable_that_names_the_world_wins() {
        let both = launch_of(&[("PMIX_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")]);
        assert_eq!(both, Some(Launch { variable: "OMPI_COMM_WORLD_SIZE", world_size: Some(2) }));
    }
}
