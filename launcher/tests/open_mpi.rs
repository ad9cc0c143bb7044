//! Compares hostfiles and layouts with the behaviour of Open MPI's own `mpirun`.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use admiral_launch::hosts::{Host, HostRequest, is_this_host, resolve};
use admiral_launch::layout::Layout;
use admiral_launch::mpirun::{MpirunCommand, find_mpirun};

/// Options that make `mpirun` print the places of ranks and start nothing.
const MAP_ONLY: &str = "--do-not-launch --display-map --mca plm_rsh_agent true";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The hosts, in order, with their numbers of ranks.
type Ranks = Vec<(String, usize)>;

/// Returns the hosts in the order of ranks, from the map that `mpirun` prints; `None` if it prints none.
fn map(command: &mut Command) -> Option<Ranks> {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OMPI_") || name.starts_with("PMIX_")) {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let mut hosts = Ranks::new();
    let mut rank = 0;
    for line in text.lines() {
        if let Some(rest) = line.trim().strip_prefix("Data for node: ") {
            hosts.push((rest.split_whitespace().next().unwrap().to_owned(), 0));
        } else if line.contains("Process rank: ") {
            assert!(line.contains(&format!("Process rank: {rank} ")), "ranks are not in order:\n{text}");
            rank += 1;
            hosts.last_mut().unwrap().1 += 1;
        }
    }
    (!hosts.is_empty()).then_some(hosts)
}

fn plan(layout: &Layout) -> MpirunCommand {
    MpirunCommand {
        mpirun: find_mpirun(None, &std::env::var("PATH").unwrap()).unwrap(),
        layout: layout.clone(),
        program: "/bin/true".into(),
        arguments: Vec::new(),
        variables: Vec::new(),
        grace_seconds: 30,
        is_root: is_root(),
        oversubscribe: false,
        interfaces: None,
        remote_start: admiral_launch::mpirun::RemoteStart::Agent,
        options: vec![MAP_ONLY.to_owned()],
        temporary_folder: std::env::temp_dir(),
    }
}

fn hosts(list: &[(&str, usize)]) -> Vec<Host> {
    list.iter().map(|&(name, slots)| Host { name: name.to_owned(), slots, slots_given: true }).collect()
}

/// Checks all cases at the same time, because `mpirun` spends most of its time waiting.
fn check_all<T: Sync>(cases: &[T], check: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| check(case));
        }
    });
}

#[test]
fn mpirun_places_ranks_as_planned() {
    let own = admiral_contract::host::host_name();
    let cases = [
        (vec![("n9", 3), ("n1", 3), ("n5", 3)], 7),
        (vec![("n0", 8), ("n1", 8), ("n2", 8)], 16),
        (vec![("n0.a.test", 2), ("n0.b.test", 1)], 3),
        (vec![("10.7.8.2", 1), ("10.7.8.1", 2)], 3),
        (vec![("n1", 2), (&own, 2), ("n0", 1)], 5),
        (vec![("n1", 2), (&own, 2)], 3),
        // More ranks than cores.
        (vec![("n0", 300)], 300),
        (vec![(&own, 300)], 300),
    ];
    check_all(&cases, |(list, world)| {
        let layout = Layout::with_first(&hosts(list), *world, is_this_host).unwrap();
        assert_eq!(map(&mut plan(&layout).command()), Some(layout.hosts.clone()), "{list:?}");
    });
}

/// In a Slurm job with one task per node, `mpirun` alone would place at most one rank on each node, in the job's order.
#[test]
fn a_slurm_job_does_not_change_the_places() {
    let layout = Layout::new(&hosts(&[("n1", 2), ("n0", 2)]), 4).unwrap();
    let mut plan = plan(&layout);
    // This machine has no srun.
    plan.options.push("--mca plm rsh".to_owned());
    let job = [
        ("SLURM_JOBID", "7"),
        ("SLURM_JOB_ID", "7"),
        ("SLURM_NODELIST", "n[0-1]"),
        ("SLURM_JOB_NODELIST", "n[0-1]"),
        ("SLURM_TASKS_PER_NODE", "1(x2)"),
        ("SLURM_NNODES", "2"),
    ];
    assert_eq!(map(plan.command().envs(job)), Some(layout.hosts));
}

/// Returns the hosts of a file as `mpirun` reads it, and as this crate does, with as many ranks as this crate finds
/// slots.
fn both(text: &str) -> (Option<Ranks>, Option<Ranks>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    std::fs::write(&path, text).unwrap();
    let request = HostRequest { hostfile: Some(path.clone()), ..HostRequest::default() };
    let ours = resolve(&request, &|_| None).ok();
    let ours = ours.map(|list| list.hosts.into_iter().map(|host| (host.name, host.slots)).collect::<Ranks>());
    let world = ours.as_ref().map_or(1, |hosts| hosts.iter().map(|(_, slots)| slots).sum());
    (ours, theirs(&path, world))
}

fn theirs(path: &Path, world: usize) -> Option<Ranks> {
    let mut command = Command::new(find_mpirun(None, &std::env::var("PATH").unwrap()).unwrap());
    command.arg("--hostfile").arg(path).args(["-np", &world.to_string(), "--map-by", "slot", "--bind-to", "none"]);
    command.args(["--mca", "orte_keep_fqdn_hostnames", "1"]).args(MAP_ONLY.split(' '));
    if is_root() {
        command.arg("--allow-run-as-root");
    }
    map(command.arg("true"))
}

#[test]
fn hostfiles_are_read_as_by_open_mpi() {
    let texts = [
        "n0 slots=2\nn1 slots=3\n",
        "# two\nn0 slots = 2 # here\n\n   n1   slots=2 max_slots=4\n",
        "n0\nn1\nn0\nn1\nn0\n",
        "n0 slots=2\nn0\n",
        "n1 slots=1 max-slots=2\nn0.a.test slots=2\n10.7.8.1 slots=1\n",
        "// none\nn0 slots=1 // one\nn1 slots=2\n",
        "/* n8 slots=1\nn9 slots=1 */\nn0 slots=2\n",
        "n0 slots=0\nn1 slots=2\n",
        "n0 count=2\nn1 cpu=1\n",
    ];
    check_all(&texts, |text| {
        let (ours, theirs) = both(text);
        assert!(ours.is_some());
        assert_eq!(ours, theirs, "{text}");
    });
}

#[test]
fn hostfiles_that_open_mpi_refuses_are_refused() {
    let texts = [
        "n0 slots=2\nn0 slots=3\n",
        "n0\nn0 slots=3\n",
        "n0 slots=-2\n",
        "n0 slots=x\n",
        "n0 slot=2\n",
        "n0 slots=4 max_slots=2\n",
        "+n0\n",
        "n0 slots=0\n",
        "",
    ];
    check_all(&texts, |text| assert_eq!(both(text), (None, None), "{text}"));
}
