//! Runs programs, also under the real `mpirun`, and leaves no process behind.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// `mpirun` for `num_ranks` ranks on this host, also on fewer cores. Add the program and its arguments. The ranks get
/// the environment of the command.
pub fn mpirun(num_ranks: usize) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["-n", &num_ranks.to_string(), "--oversubscribe"]);
    // Several tests run at once: if ranks were bound to cores, all runs would share the first ones. Ranks that wait
    // must yield for the same reason.
    command.args(["--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]);
    // SAFETY: no precondition.
    if unsafe { libc::geteuid() } == 0 {
        command.arg("--allow-run-as-root");
    }
    command
}

/// A command that runs `program` on `num_ranks` ranks: under `mpirun`, or directly if there is only one rank.
pub fn on_ranks(num_ranks: usize, program: &str) -> Command {
    if num_ranks == 1 {
        return Command::new(program);
    }
    let mut command = mpirun(num_ranks);
    command.arg(program);
    command
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was killed at its timeout.
    pub timed_out: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end, or kills it and its children after `timeout`.
pub fn run(command: &mut Command, timeout: Duration) -> Finished {
    Running::start(command).finish(timeout)
}

/// A running command. It leads a new session, by which its children are found.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a command without input, and collects its output.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: signal and setsid are safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // The tests may run in the background of a shell, which makes them ignore SIGINT.
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Self { child, stdout, stderr }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process. `mpirun` forwards SIGTERM and SIGINT to its ranks.
    pub fn signal(&self, signal: i32) {
        // SAFETY: nobody has waited for the process yet, so its id has not been reused.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Kills the process and its children, as a power cut would, and returns when all have ended.
    pub fn kill(&self) {
        // Repeats, because a process may start another one meanwhile, and a killed one takes a moment to end.
        for _ in 0..1000 {
            let processes = session(self.child.id());
            if processes.is_empty() {
                return;
            }
            for process in processes {
                // SAFETY: the process belongs to a session that this test started.
                unsafe { libc::kill(process, libc::SIGKILL) };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the processes {:?} outlive SIGKILL", session(self.child.id()));
    }

    /// Waits for the end of the process, and kills it after `timeout`.
    pub fn finish(mut self, timeout: Duration) -> Finished {
        let end = Instant::now() + timeout;
        let mut timed_out = false;
        let status = loop {
            match self.child.try_wait().expect("the child of this process") {
                Some(status) => break status,
                None if !timed_out && Instant::now() >= end => {
                    timed_out = true;
                    self.kill();
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        // Children that outlive their parent would keep the pipes open.
        self.kill();
        let text = |thread: Option<JoinHandle<String>>| thread.and_then(|t| t.join().ok()).unwrap_or_default();
        Finished {
            code: status.code(),
            signal: status.signal(),
            timed_out,
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// The processes of the session that `leader` leads.
pub fn session(leader: u32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    processes
        .filter(|process| {
            // The format is "pid (name) state parent group session ...", and the name may contain any character.
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
            fields.is_some_and(|fields| {
                fields.get(3).is_some_and(|id| *id == leader.to_string()) && fields.first() != Some(&"Z")
            })
        })
        .collect()
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
