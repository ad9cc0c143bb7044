//! Hosts for runs under the launcher: the network namespaces of `ci/testbed`.
#![allow(dead_code, reason = "each test program uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::mpirun::{Finished, Running};

/// The timeout of everything that takes seconds on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Waits for the turn of a test that starts several ranks. Side by side, their ranks would starve each other, and the
/// launcher would take that for a lost host.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hosts named `n0` to `n3`, which are removed on drop. Holds the [`turn`].
pub struct Bed {
    name: String,
    net: String,
    _turn: MutexGuard<'static, ()>,
}

impl Bed {
    /// Starts the hosts. Prints a message and returns `None` if this user may not create network namespaces.
    pub fn new(hosts: usize) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: no precondition.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // The kernel limits an interface's name to 15 bytes, and ci/testbed a network's number to one byte.
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

    /// Runs `ci/testbed ARGUMENTS`. Returns what it prints.
    pub fn control(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("ci/testbed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns the address of a host, by its number.
    pub fn address(&self, host: usize) -> String {
        format!("10.{}.0.{}", self.net, host + 1)
    }

    /// A command on a host, with the environment of this process.
    pub fn on(&self, host: &str, program: &str) -> Command {
        let mut command = self.command(&["run", host, program]);
        // All hosts share this machine's cores, so a rank that waits must yield.
        command.env("OMPI_MCA_mpi_yield_when_idle", "1");
        // Separates Open MPI's files from those of other runs on this machine.
        command.env("TMPDIR", self.folder());
        command.env("OMPI_MCA_plm_rsh_agent", format!("{} agent", Self::testbed().display()));
        command
    }

    /// The launcher on a host.
    pub fn launcher(&self, host: &str) -> Command {
        self.on(host, launcher().to_str().expect("a path of text"))
    }

    /// The processes on a host, as text for messages.
    pub fn left_on(&self, host: &str) -> Vec<String> {
        let words = |pid: &str| {
            let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&text).replace('\0', " ")
        };
        let pids = self.control(&["pids", host]);
        pids.lines().filter(|pid| !pid.is_empty()).map(|pid| format!("{pid}: {}", words(pid))).collect()
    }

    /// The process of `mpirun` on n0.
    pub fn mpirun(&self) -> i32 {
        self.process("n0", "mpirun").expect("mpirun runs")
    }

    /// The process with this name on a host, if there is one.
    pub fn process(&self, host: &str, name: &str) -> Option<i32> {
        let pids = self.control(&["pids", host]);
        let name_of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let pid = pids.lines().find(|pid| name_of(pid).trim() == name)?;
        Some(pid.parse().expect("a number"))
    }

    /// The testbed's folder, which it removes.
    fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/tmp/testbed-{}", self.name))
    }

    /// The session folders of Open MPI on a host.
    fn sessions_on(&self, host: &str) -> Vec<PathBuf> {
        // SAFETY: no precondition.
        let user = unsafe { libc::geteuid() };
        let entries = std::fs::read_dir(self.folder().join(format!("ompi.{host}.{user}")));
        entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// Fails if processes or Open MPI's files are left on one of these hosts after a minute.
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

/// The launcher. A build of the workspace puts it next to the program.
pub fn launcher() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_admiral")).with_file_name("admiral-launch");
    assert!(path.is_file(), "{} is not there; build it: cargo build --release -p admiral-launch", path.display());
    path
}

/// A running launcher and the folder of its run.
pub struct Launch {
    pub running: Running,
    pub run: PathBuf,
}

impl Launch {
    pub fn start(command: &mut Command, run: PathBuf) -> Self {
        Self { running: Running::start(command), run }
    }

    /// The content of `launch/state.json`, if it exists.
    pub fn state(&self) -> Option<Value> {
        read(&self.run.join("launch/state.json"))
    }

    /// The step that this attempt of the launch has reached.
    pub fn step(&self) -> u64 {
        self.state().and_then(|state| state["step"].as_u64()).unwrap_or(0)
    }

    /// Waits until this attempt has reached a step of training. Returns the state.
    pub fn wait_for(&self, attempt: u64, step: u64) -> Value {
        self.wait_for_condition("training", attempt, step)
    }

    /// Waits until this attempt has reached a step, or a number of images, in a condition. Returns the state.
    pub fn wait_for_condition(&self, condition: &str, attempt: u64, step: u64) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let state = self.state();
            let is_there = |state: &Value| {
                state["condition"] == condition
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

/// The process of a rank, from the launcher's state.
pub fn pid_of(state: &Value, rank: usize) -> i32 {
    let pid = state["ranks"][rank]["ledger"]["pid"].as_i64().expect("a ledger");
    // A signal to process 0 would reach this test's own group.
    i32::try_from(pid).ok().filter(|&pid| pid > 0).expect("a process")
}

/// The parent of a process. A rank's parent is its agent.
pub fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let rest = stat.rsplit_once(") ").expect("a name").1;
    rest.split(' ').nth(1).expect("a parent").parse().expect("a number")
}

pub fn signal(pid: i32, signal: i32) {
    // SAFETY: the process belongs to a run that this test started.
    let outcome = unsafe { libc::kill(pid, signal) };
    assert_eq!(outcome, 0, "process {pid}: {}", std::io::Error::last_os_error());
}

/// The incidents of a run, in order.
pub fn incidents(run: &Path) -> Vec<Value> {
    (1..).map_while(|number| read(&run.join(format!("launch/incidents/{number:03}/failure.json")))).collect()
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
