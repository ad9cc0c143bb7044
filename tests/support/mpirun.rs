//! Runs programs under the real `mpirun` and leaves no process behind.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// `mpirun` for that many ranks on this host, however few cores it has. Add the program and its arguments; the
/// environment of the command reaches the ranks.
pub fn mpirun(num_ranks: usize) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["-n", &num_ranks.to_string(), "--oversubscribe"]);
    // Tests run side by side: bound to cores, the ranks of all runs would share the first ones. And ranks that wait
    // must leave the core to those that work.
    command.args(["--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]);
    // SAFETY: no precondition.
    if unsafe { libc::geteuid() } == 0 {
        command.arg("--allow-run-as-root");
    }
    command
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was still running at the end of its time, and was killed.
    pub timed_out: bool,
    /// All that it wrote on standard output.
    pub stdout: String,
    /// All that it wrote on standard error.
    pub stderr: String,
}

/// Runs a command to its end, or kills it with all it started after `timeout`.
pub fn run(command: &mut Command, timeout: Duration) -> Finished {
    Running::start(command).finish(timeout)
}

/// A command at work, in a session of its own by which all that it starts can be found.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a command with its output collected and no input.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: setsid is safe between fork and exec.
        unsafe {
            command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Self { child, stdout, stderr }
    }

    /// The process that was started.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to that process; `mpirun` passes SIGTERM and SIGINT on.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the process is not yet waited for, so that its number is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Ends it and all it started at once, as a power cut would, and returns when all are gone.
    pub fn kill(&self) {
        // Again and again: a process may start another meanwhile, and a killed one takes a moment to go.
        for _ in 0..1000 {
            let processes = session(self.child.id());
            if processes.is_empty() {
                return;
            }
            for process in processes {
                // SAFETY: a process of a session that this test made.
                unsafe { libc::kill(process, libc::SIGKILL) };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the processes {:?} outlive SIGKILL", session(self.child.id()));
    }

    /// Waits for the end, at most until `timeout`.
    pub fn finish(mut self, timeout: Duration) -> Finished {
        let end = Instant::now() + timeout;
        let mut timed_out = false;
        let status = loop {
            match self.child.try_wait().expect("the child is ours to wait for") {
                Some(status) => break status,
                None if !timed_out && Instant::now() >= end => {
                    timed_out = true;
                    self.kill();
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        // What outlives its parent would hold the pipes open.
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
            // "pid (name) state parent group session ...", where the name may hold anything.
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
