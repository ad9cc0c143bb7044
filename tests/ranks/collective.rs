//! Runs the conformance suite on each implementation of `Collective`, and ends groups of ranks under the real `mpirun`.
//!
//! The ranks are processes of this test program. Each runs the ignored test [`rank`] with a scenario by name.

use std::process::Command;
use std::time::Duration;

use admiral::gpus::Gpus;
use admiral::reduce::NcclReducer;
use admiral_comm::{
    Collective, CollectiveError, Ending, ExitCode, MpiLauncher, PhaseTracker, Single, agree, any, connect, open_ledger,
};
use admiral_gpu::GpuEnvironment;

use crate::mpirun::{Finished, Running};
use crate::{collective_suite, mpirun};

/// The environment variable with the scenario of a rank.
const SCENARIO: &str = "ADMIRAL_TEST_SCENARIO";

/// A run that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(90);

#[test]
fn single_conforms() {
    collective_suite::run(&Single);
}

#[test]
fn without_a_launcher_mpi_is_not_initialized() {
    let (ledger, _) = open_ledger(None);
    assert_eq!(connect(None, None, ledger).unwrap().world_size(), 1);
    assert!(!mpi::environment::is_initialized());
}

#[test]
fn mpi_conforms() {
    for world in [1, 2, 3] {
        let finished = under_mpirun(world, "conform");
        assert_eq!(finished.code, Some(0), "{world} ranks: {finished:?}");
        assert_eq!(marks(&finished, "conforms").len(), world, "{finished:?}");
    }
}

/// Sums on real GPUs are equal to those on the host. NCCL needs a GPU for each rank.
#[test]
fn nccl_conforms() {
    let num_gpus = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
    if num_gpus < 2 {
        println!("libtorch sees {num_gpus} GPUs on this machine, and NCCL needs 2: it is not tried here");
        return;
    }
    let finished = under_mpirun(2, "nccl");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(marks(&finished, "conforms").len(), 2, "{finished:?}");
}

#[test]
fn sums_are_the_same_in_every_run_and_in_the_order_of_ranks() {
    let runs = [(); 2].map(|()| marks(&under_mpirun(3, "sums"), "sum"));
    assert_eq!(runs[0].len(), 3);
    let mut expected = collective_suite::uneven(0, 1_500_000);
    for rank in 1..3 {
        for (sum, value) in expected.iter_mut().zip(collective_suite::uneven(rank, 1_500_000)) {
            *sum += value;
        }
    }
    let expected = format!("{:08x}", checksum(&expected));
    assert!(runs.iter().flatten().all(|sum| *sum == expected), "{runs:?}, not {expected}");
}

#[test]
fn an_abort_of_one_rank_ends_all_with_its_exit_code() {
    for scenario in ["abort", "abort beside a collective", "ending alone"] {
        let finished = under_mpirun(2, scenario);
        assert_eq!((finished.code, finished.timed_out), (Some(ExitCode::Diverged as i32), false), "{finished:?}");
    }
}

#[test]
fn a_panic_of_one_rank_ends_all_with_the_code_of_a_bug() {
    let finished = under_mpirun(2, "panic");
    assert_eq!((finished.code, finished.timed_out), (Some(ExitCode::Bug as i32), false), "{finished:?}");
    assert!(finished.stderr.contains("a bug on rank 1"), "{finished:?}");
}

#[test]
fn a_killed_rank_ends_all_ranks() {
    let finished = under_mpirun(2, "killed");
    assert!(!finished.timed_out && finished.code != Some(0), "{finished:?}");
}

#[test]
fn a_failure_of_all_ranks_is_printed_once() {
    let finished = under_mpirun(3, "all fail alike");
    assert_eq!(finished.code, Some(ExitCode::Config as i32), "{finished:?}");
    assert_eq!(finished.stderr.matches("error: no folder /data").count(), 1, "{finished:?}");
    assert_eq!(finished.stderr.matches("/data").count(), 1, "{finished:?}");
}

#[test]
fn a_failure_of_one_rank_is_printed_once_with_its_rank() {
    let finished = under_mpirun(3, "one fails");
    assert_eq!(finished.code, Some(ExitCode::Node as i32), "{finished:?}");
    assert_eq!(finished.stderr.matches("error: rank 2 of 3: the disk is full").count(), 1, "{finished:?}");
    assert_eq!(finished.stderr.matches("the disk is full").count(), 1, "{finished:?}");
}

#[test]
fn a_launcher_of_another_mpi_is_refused() {
    // The variables of MPICH's mpiexec announce two ranks, and Open MPI ignores them.
    let mut command = this_program("connect");
    command.env("PMI_SIZE", "2").env("PMI_RANK", "0");
    let finished = mpirun::run(&mut command, TIMEOUT);
    assert_eq!(marks(&finished, "refused"), ["PMI_SIZE of 2, found 1"], "{finished:?}");
}

#[test]
fn a_run_is_killed_at_its_timeout_with_all_its_ranks() {
    let running = Running::start(this_program_under(&mut mpirun::mpirun(2), "hang"));
    let leader = running.id();
    let finished = running.finish(Duration::from_secs(3));
    assert!(finished.timed_out, "{finished:?}");
    assert_eq!(mpirun::session(leader), Vec::<i32>::new());
}

/// One rank of the scenarios above.
#[test]
#[ignore = "one rank of the other tests, which start it under mpirun"]
fn rank() {
    let scenario = std::env::var(SCENARIO).unwrap_or_else(|_| "conform".to_owned());
    let (ledger, _) = open_ledger(None);
    let launcher = MpiLauncher::detect(|name| std::env::var(name).ok());
    let collective = match (scenario.as_str(), connect(launcher, None, ledger)) {
        ("connect", Err(CollectiveError::WorldMismatch { variable, declared, found, .. })) => {
            return mark("refused", &format!("{variable} of {declared}, found {found}"));
        }
        (_, collective) => collective.unwrap(),
    };
    let rank = collective.rank();
    match scenario.as_str() {
        "conform" => {
            collective_suite::run(&*collective);
            if let Ok(local_rank) = std::env::var("OMPI_COMM_WORLD_LOCAL_RANK") {
                assert_eq!(collective.local_rank().to_string(), local_rank);
            }
            mark("conforms", "");
        }
        "nccl" => {
            let gpus = Gpus::new(&GpuEnvironment::from_vars(|name| std::env::var_os(name)));
            let ordinal = collective.local_rank();
            let open = || {
                let phases = PhaseTracker::private();
                NcclReducer::open(&*collective, &gpus, ordinal, TIMEOUT, phases).unwrap().unwrap()
            };
            collective_suite::run_on_gpu(&*collective, ordinal, &open);
            mark("conforms", "");
        }
        "sums" => {
            let mut values = collective_suite::uneven(rank, 1_500_000);
            collective.all_reduce_sum_f32(&mut values).unwrap();
            mark("sum", &format!("{:08x}", checksum(&values)));
        }
        "abort" if rank == 1 => collective.abort(ExitCode::Diverged),
        "abort beside a collective" if rank == 1 => std::thread::scope(|scope| {
            scope.spawn(|| {
                // Waits until the main thread is in the barrier.
                std::thread::sleep(Duration::from_millis(200));
                collective.abort(ExitCode::Diverged)
            });
            collective.barrier().unwrap();
        }),
        // Rank 0 never enters a barrier, so rank 1's main thread waits forever.
        "abort beside a collective" => std::thread::sleep(TIMEOUT * 2),
        "ending alone" if rank == 1 => {
            let ending = Ending::alone(ExitCode::Diverged, &"the loss is NaN");
            std::process::exit(ending.leave(collective) as i32);
        }
        "panic" if rank == 1 => panic!("a bug on rank {rank}"),
        // SAFETY: ends this process.
        "killed" if rank == 1 => unsafe {
            libc::raise(libc::SIGKILL);
        },
        // The rank whose partner has ended.
        "abort" | "ending alone" | "panic" | "killed" => {
            collective.all_reduce_sum_f32(&mut [1.0; 100_000]).unwrap();
            collective.barrier().unwrap();
        }
        "all fail alike" => leave_with(Err("no folder /data"), ExitCode::Config, collective),
        "one fails" => {
            assert_eq!(any(&*collective, rank == 1), Ok(true));
            let outcome = if rank == 2 { Err("the disk is full") } else { Ok(()) };
            leave_with(outcome, ExitCode::Node, collective);
        }
        "hang" => std::thread::sleep(TIMEOUT * 2),
        _ => panic!("unknown scenario {scenario:?}"),
    }
}

/// Agrees on an outcome and exits as `main` does.
fn leave_with(outcome: Result<(), &str>, code: ExitCode, collective: Box<dyn Collective>) {
    let ending = agree(&*collective, outcome, |_| code).unwrap_err();
    std::process::exit(ending.leave(collective) as i32);
}

/// Prints a message for the test that started this rank. Marks separate it from the output of the harness and `mpirun`.
fn mark(name: &str, text: &str) {
    println!("\n@{name}:{text}@");
}

fn marks(finished: &Finished, name: &str) -> Vec<String> {
    let mark = format!("@{name}:");
    let parts = finished.stdout.split(&mark).skip(1);
    parts.filter_map(|part| Some(part.split_once('@')?.0.to_owned())).collect()
}

fn checksum(values: &[f32]) -> u32 {
    crc32c::crc32c(&values.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect::<Vec<_>>())
}

fn this_program(scenario: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "collective::rank", "--ignored", "--nocapture"]).env(SCENARIO, scenario);
    command
}

fn this_program_under<'a>(launcher: &'a mut Command, scenario: &str) -> &'a mut Command {
    let program = this_program(scenario);
    launcher.arg(program.get_program()).args(program.get_args()).env(SCENARIO, scenario)
}

fn under_mpirun(num_ranks: usize, scenario: &str) -> Finished {
    mpirun::run(this_program_under(&mut mpirun::mpirun(num_ranks), scenario), TIMEOUT)
}
