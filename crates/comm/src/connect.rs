//! Connects this rank to the others, depending on how the process was started.

use std::sync::Arc;

use admiral_contract::Ledger;

use crate::collective::Collective;
use crate::error::CollectiveError;
use crate::mpi::Mpi;
use crate::single::Single;

/// The environment variables that MPI launchers set, whether the value is the number of ranks, and the variable with the rank.
/// In order: Open MPI; MPICH, Intel MPI and `srun --mpi=pmi2`; MVAPICH; `srun --mpi=pmix` and PRRTE.
const LAUNCHER_VARIABLES: [(&str, bool, &str); 4] = [
    ("OMPI_COMM_WORLD_SIZE", true, "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", true, "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", true, "MV2_COMM_WORLD_RANK"),
    ("PMIX_RANK", false, "PMIX_RANK"),
];

/// The MPI launcher that started this process, according to the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MpiLauncher {
    /// The environment variable that the launcher was recognized by.
    pub variable: &'static str,
    /// The number of ranks, if the variable holds it.
    pub world_size: Option<usize>,
    /// The rank, if the launcher says it.
    pub rank: Option<usize>,
}

impl MpiLauncher {
    /// Recognizes the launcher by its environment variables, which `get` reads. Returns `None` if no MPI launcher started
    /// this process.
    pub fn detect(get: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |text: String| text.trim().parse().ok();
        LAUNCHER_VARIABLES.iter().find_map(|&(variable, is_size, rank)| {
            let value = get(variable)?;
            let world_size = if is_size { number(value) } else { None };
            Some(Self { variable, world_size, rank: get(rank).and_then(number) })
        })
    }
}

/// Variables by which a scheduler or a launcher says that a process is one of many, and what their value is. In order:
/// Slurm's `srun`, Flux, PALS, LSF's `jsrun` and `blaunch`, ALPS's `aprun`, PBS's `pbsdsh`, MPICH's Hydra, PyTorch's
/// `torchrun`, and PMI without a size.
const TASK_VARIABLES: [(&str, TaskVariable); 13] = [
    ("SLURM_STEP_NUM_TASKS", TaskVariable::Size { task: "SLURM_PROCID" }),
    ("FLUX_JOB_SIZE", TaskVariable::Size { task: "FLUX_TASK_RANK" }),
    ("PALS_NRANKS", TaskVariable::Size { task: "PALS_RANKID" }),
    ("JSM_NAMESPACE_SIZE", TaskVariable::Size { task: "JSM_NAMESPACE_RANK" }),
    ("PALS_RANKID", TaskVariable::FromZero),
    ("LSF_PM_TASKID", TaskVariable::FromOne),
    ("LSB_DJOB_NUMPROC", TaskVariable::Several { task: "LSF_PM_TASKID" }),
    ("ALPS_APP_PE", TaskVariable::FromZero),
    ("PBS_TASKNUM", TaskVariable::FromOne),
    ("MPI_LOCALNRANKS", TaskVariable::Several { task: "MPI_LOCALRANKID" }),
    ("WORLD_SIZE", TaskVariable::Several { task: "RANK" }),
    ("PMI_RANK", TaskVariable::FromZero),
    ("PMIX_RANK", TaskVariable::OfUnknown),
];

/// The meaning of a variable's value.
#[derive(Debug, Clone, Copy)]
enum TaskVariable {
    /// The number of tasks. It counts only for a process that also has the variable `task`.
    Size { task: &'static str },
    /// As [`Size`](Self::Size), but 1 does not say that the task is alone: it may be the number of tasks of one host.
    Several { task: &'static str },
    /// The number of the task, from 1.
    FromOne,
    /// The number of the task, from 0.
    FromZero,
    /// The number of the task, from 0, among tasks that only MPI can count. Without MPI, the first one cannot tell whether
    /// it is alone, unless another variable is a [`Size`](Self::Size) of 1.
    OfUnknown,
}

/// Returns the names of all variables by which launchers and schedulers are recognized.
pub fn launcher_variables() -> impl Iterator<Item = &'static str> {
    let of_tasks = TASK_VARIABLES.iter().flat_map(|&(variable, meaning)| match meaning {
        TaskVariable::Size { task } | TaskVariable::Several { task } => [Some(variable), Some(task)],
        TaskVariable::FromOne | TaskVariable::FromZero | TaskVariable::OfUnknown => [Some(variable), None],
    });
    let of_ranks = LAUNCHER_VARIABLES.iter().flat_map(|&(variable, _, rank)| [variable, rank]);
    of_ranks.chain(of_tasks.flatten())
}

/// What says that this process is one of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskOfMany {
    /// The environment variable.
    pub variable: &'static str,
    /// Its value.
    pub value: u64,
}

impl TaskOfMany {
    /// Recognizes a scheduler that started this process together with others, by its environment variables, which `get`
    /// reads.
    pub fn detect(get: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |variable: &str| get(variable)?.trim().parse::<u64>().ok();
        let is_alone = TASK_VARIABLES.iter().any(|&(variable, meaning)| match meaning {
            TaskVariable::Size { task } => number(variable) == Some(1) && get(task).is_some(),
            _ => false,
        });
        TASK_VARIABLES.iter().find_map(|&(variable, meaning)| {
            let value = number(variable)?;
            let is_of_many = match meaning {
                TaskVariable::Size { task } | TaskVariable::Several { task } => value > 1 && get(task).is_some(),
                TaskVariable::FromOne => value > 1,
                TaskVariable::FromZero => value > 0,
                TaskVariable::OfUnknown => !is_alone,
            };
            is_of_many.then_some(Self { variable, value })
        })
    }
}

/// Joins the ranks of `launcher`. Returns [`Mpi`] under an MPI launcher, otherwise [`Single`], which makes no MPI calls.
/// Must be called once, on the main thread, which must also drop the result. Collectives are recorded in `ledger`.
/// `task` says whether a scheduler started this process together with others.
///
/// # Errors
/// If MPI cannot be initialized, or reports another number of ranks than the launcher or the scheduler.
pub fn connect(
    launcher: Option<MpiLauncher>,
    task: Option<TaskOfMany>,
    ledger: Arc<Ledger>,
) -> Result<Box<dyn Collective>, CollectiveError> {
    let alone = |task: TaskOfMany| CollectiveError::AloneAmongTasks { variable: task.variable, value: task.value };
    let Some(launcher) = launcher else {
        return task.map_or_else(|| Ok(Box::new(Single) as Box<dyn Collective>), |task| Err(alone(task)));
    };
    let mpi = Mpi::connect(ledger)?;
    // `mpirun -n 1` inside a job says itself that it started one rank.
    if let (Some(task), 1, None) = (task, mpi.world_size(), launcher.world_size) {
        return Err(alone(task));
    }
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
    fn a_task_of_many_is_recognized() {
        let detect = |variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            TaskOfMany::detect(get).map(|task| (task.variable, task.value))
        };
        let srun = [("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "0")];
        assert_eq!(detect(&srun), Some(("SLURM_STEP_NUM_TASKS", 2)));
        assert_eq!(detect(&[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_PROCID", "0")]), None);
        // A batch script of a job with two tasks is one process.
        assert_eq!(detect(&[("SLURM_NTASKS", "2"), ("SLURM_PROCID", "0")]), None);
        for (variable, one, two) in [
            ("LSF_PM_TASKID", "1", "2"),
            ("PBS_TASKNUM", "1", "2"),
            ("PMI_RANK", "0", "1"),
            ("PALS_RANKID", "0", "1"),
            ("ALPS_APP_PE", "0", "1"),
        ] {
            assert_eq!(detect(&[(variable, one)]), None);
            assert!(detect(&[(variable, two)]).is_some());
        }
        for (size, task) in [
            ("JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
            ("LSB_DJOB_NUMPROC", "LSF_PM_TASKID"),
            ("MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
            ("WORLD_SIZE", "RANK"),
        ] {
            // The first of four, the only one, and a process that is no task.
            assert_eq!(detect(&[(size, "4"), (task, "1")]).map(|(_, value)| value), Some(4), "{size}");
            assert_eq!(detect(&[(size, "1"), (task, "0")]), None, "{size}");
            assert_eq!(detect(&[(size, "4")]), None, "{size}");
        }
        // Only MPI knows how many there are. `srun --mpi=pmix -n 1` says it itself.
        assert_eq!(detect(&[("PMIX_RANK", "0")]), Some(("PMIX_RANK", 0)));
        assert_eq!(detect(&[("PMIX_RANK", "0"), ("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_PROCID", "0")]), None);
        let ledger = Arc::new(Ledger::create().expect("memory"));
        let error = connect(None, Some(TaskOfMany { variable: "PBS_TASKNUM", value: 2 }), ledger).err();
        assert!(error.is_some_and(|error| error.to_string().contains("PBS_TASKNUM=2")));
    }

    #[test]
    fn launchers_are_recognized_and_their_world_size_is_read() {
        for (variable, rank) in [
            ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
            ("PMI_SIZE", "PMI_RANK"),
            ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
        ] {
            let found = |rank| Some(MpiLauncher { variable, world_size: Some(8), rank });
            assert_eq!(detect(&[(variable, "8")]), found(None));
            assert_eq!(detect(&[(variable, "8"), (rank, "3")]), found(Some(3)));
        }
        let pmix = MpiLauncher { variable: "PMIX_RANK", world_size: None, rank: Some(3) };
        assert_eq!(detect(&[("PMIX_RANK", "3")]), Some(pmix));
    }

    #[test]
    fn a_variable_with_the_world_size_takes_precedence() {
        let both = detect(&[("PMIX_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")]);
        assert_eq!(both, Some(MpiLauncher { variable: "OMPI_COMM_WORLD_SIZE", world_size: Some(2), rank: None }));
    }
}
