//! Hosts of their own for runs under the launcher: `ci/testbed`'s network namespaces.
#![allow(dead_code, reason = "each test program uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::mpirun::{Finished, Running};

/// Time for what takes seconds on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Tests that start several ranks take turns: side by side, so many would starve each other, and that is what the
/// launcher takes for a lost host.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A few hosts, `n0` to `n3`, that are gone with this. It has the [`turn`].
pub struct Bed {
    name: String,
    net: String,
    _turn: MutexGuard<'static, ()>,
}

impl Bed {
    /// `None`, said aloud, where this user may make no hosts.
    pub fn new(hosts: usize) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: no precondition.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Interfaces have short names, and networks one byte.
        let name = format!("b{:x}{number:x}", std::process::id());
        let net = (100 + (std::process::id() + 37 * number) % 150).to_string();
        let bed = Self { name, net, _turn: turn() };
        bed.control(&["up", &hosts.to_string()]);
        Some(bed)
    }

    fn testbed() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/testbed")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Self::testbed());
        command.args(arguments).env("TESTBED", &self.name).env("TESTBED_NET", &self.net);
        command
    }

    /// `ci/testbed ARGUMENTS`; what it prints.
    pub fn control(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("ci/testbed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command on a host, with the variables of this process.
    pub fn on(&self, host: &str, program: &str) -> Command {
        let mut command = self.command(&["run", host, program]);
        // The hosts share the cores of one: a rank that waits must leave them to those that work.
        command.env("OMPI_MCA_mpi_yield_when_idle", "1");
        // What Open MPI leaves is told from what it leaves elsewhere.
        command.env("TMPDIR", self.folder());
        command.env("OMPI_MCA_plm_rsh_agent", format!("{} agent", Self::testbed().display()));
        command
    }

    /// The launcher on a host.
    pub fn launcher(&self, host: &str) -> Command {
        self.on(host, launcher().to_str().expect("a path of text"))
    }

    /// What runs on a host, for people.
    pub fn left_on(&self, host: &str) -> Vec<String> {
        let words = |pid: &str| {
            let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&text).replace('\0', " ")
        };
        let pids = self.control(&["pids", host]);
        pids.lines().filter(|pid| !pid.is_empty()).map(|pid| format!("{pid}: {}", words(pid))).collect()
    }

    /// The `mpirun` on n0.
    pub fn mpirun(&self) -> i32 {
        self.process("n0", "mpirun").expect("mpirun runs")
    }

    /// A process on a host by its name; none where it does not run.
    pub fn process(&self, host: &str, name: &str) -> Option<i32> {
        let pids = self.control(&["pids", host]);
        let name_of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let pid = pids.lines().find(|pid| name_of(pid).trim() == name)?;
        Some(pid.parse().expect("a number"))
    }

    /// Of the testbed; it goes with it.
    fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/tmp/testbed-{}", self.name))
    }

    /// The folders that Open MPI has on a host.
    fn sessions_on(&self, host: &str) -> Vec<PathBuf> {
        // SAFETY: no precondition.
        let user = unsafe { libc::geteuid() };
        let entries = std::fs::read_dir(self.folder().join(format!("ompi.{host}.{user}")));
        entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// Fails when anything is left on one of these hosts, processes or Open MPI's files; what is on its way out has a
    /// moment.
    pub fn assert_empty(&self, hosts: &[&str]) {
        for host in hosts {
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                let (processes, folders) = (self.left_on(host), self.sessions_on(host));
                if processes.is_empty() && folders.is_empty() {
                    break;
                }
                assert!(Instant::now() < end, "left on {host}: {processes:#?} {folders:#?}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
    }
}

/// The launcher, which a build of the workspace puts beside the program.
pub fn launcher() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_admiral")).with_file_name("admiral-launch");
    assert!(path.is_file(), "{} is not there; build it: cargo build --release -p admiral-launch", path.display());
    path
}

/// A launcher at work on a run.
pub struct Launch {
    pub running: Running,
    pub run: PathBuf,
}

impl Launch {
    pub fn start(command: &mut Command, run: PathBuf) -> Self {
        Self { running: Running::start(command), run }
    }

    /// `launch/state.json`, once it is there.
    pub fn state(&self) -> Option<Value> {
        read(&self.run.join("launch/state.json"))
    }

    /// The steps that are done in this attempt of the launch.
    pub fn step(&self) -> u64 {
        self.state().and_then(|state| state["step"].as_u64()).unwrap_or(0)
    }

    /// Waits until the run is at a step of this attempt.
    pub fn wait_for(&self, attempt: u64, step: u64) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let state = self.state();
            let is_there = |state: &Value| {
                state["condition"] == "training"
                    && state["attempt"].as_u64() == Some(attempt)
                    && state["step"].as_u64() >= Some(step)
            };
            match state {
                Some(state) if is_there(&state) => return state,
                state => assert!(
                    Instant::now() < end && state.as_ref().is_none_or(|state| state["condition"] != "ended"),
                    "never at step {step} of attempt {attempt}: {state:?}; {:#?}",
                    incidents(&self.run)
                ),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn finish(self) -> Finished {
        let finished = self.running.finish(PATIENCE);
        assert!(!finished.timed_out, "it hangs: {}\n{}", finished.stdout, finished.stderr);
        finished
    }
}

/// The process of a rank, by what the launcher wrote down.
pub fn pid_of(state: &Value, rank: usize) -> i32 {
    let pid = state["ranks"][rank]["ledger"]["pid"].as_i64().expect("a ledger");
    // 0 would be this test's own group.
    i32::try_from(pid).ok().filter(|&pid| pid > 0).expect("a process")
}

/// Its parent, the agent.
pub fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let rest = stat.rsplit_once(") ").expect("a name").1;
    rest.split(' ').nth(1).expect("a parent").parse().expect("a number")
}

pub fn signal(pid: i32, signal: i32) {
    // SAFETY: a process of a run that the test began.
    let outcome = unsafe { libc::kill(pid, signal) };
    assert_eq!(outcome, 0, "process {pid}: {}", std::io::Error::last_os_error());
}

/// The incidents of a run, in their order.
pub fn incidents(run: &Path) -> Vec<Value> {
    (1..).map_while(|number| read(&run.join(format!("launch/incidents/{number:03}/failure.json")))).collect()
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
