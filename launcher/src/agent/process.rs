//! A rank's process and its descendants.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, kill_process, kill_process_group, set_child_subreaper, set_parent_process_death_signal,
};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::outbox::Outbox;
use super::output::RankOutput;
use crate::protocol::Start;

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: Option<u8>,
    pub(super) signal: Option<i32>,
}

/// Makes orphaned descendants children of this process, so that they can be found and ended.
pub fn adopt_orphans() -> std::io::Result<()> {
    Ok(set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// A rank's process.
pub(super) struct RankProcess {
    pub(super) pid: u32,
    child: Child,
    output: RankOutput,
}

impl RankProcess {
    /// Starts the process in a process group of its own, so that a signal from the terminal does not reach it. It dies
    /// with this process. A thread of its own starts it, because the file system may be slow to deliver the program.
    pub(super) async fn start(
        start: &Start,
        variables: &BTreeMap<&str, String>,
        to_launcher: Outbox,
    ) -> std::io::Result<Self> {
        let Some((program, arguments)) = start.argv.split_first() else {
            return Err(std::io::Error::other("no program is named"));
        };
        let mut command = Command::new(program);
        command.args(arguments).envs(variables).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: only system calls, which are allowed between fork and exec. Errors hold a number and allocate nothing.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died before the signal was set.
                if rustix::process::getppid() != Some(parent) {
                    return Err(rustix::io::Errno::SRCH.into());
                }
                Ok(())
            });
        }
        let (sender, spawned) = oneshot::channel();
        let handle = Handle::current();
        std::thread::Builder::new().name("rank-starter".into()).spawn(move || {
            let _in_runtime = handle.enter();
            let _ = sender.send(command.spawn());
            // The system kills the rank when the thread that started it ends.
            loop {
                std::thread::park();
            }
        })?;
        let mut child = spawned.await.map_err(std::io::Error::other)??;
        let output = RankOutput::capture(&mut child, start, to_launcher);
        Ok(Self { pid: child.id().unwrap_or_default(), child, output })
    }

    pub(super) async fn wait(&mut self) -> Ended {
        match self.child.wait().await {
            Ok(status) => {
                Ended { code: status.code().and_then(|code| u8::try_from(code).ok()), signal: status.signal() }
            }
            // Another wait has reaped it, which does not happen; nothing is known about its end then.
            Err(_) => Ended { code: None, signal: None },
        }
    }

    /// Returns the last lines of the output, after the process has ended.
    pub(super) async fn last_lines(&mut self) -> Vec<String> {
        self.output.last_lines().await
    }

    /// Waits until the log is written, but not longer than `patience`. Blocks.
    pub(super) fn finish_log(&self, patience: Duration) {
        self.output.finish(patience);
    }

    pub(super) fn signal(&self, number: i32) {
        if let (Some(pid), Some(signal)) = (pid_of(self.pid), Signal::from_named_raw(number)) {
            // The process may have ended already.
            let _ = kill_process(pid, signal);
        }
    }

    pub(super) fn kill(&self) {
        if let Some(pid) = pid_of(self.pid) {
            let _ = kill_process(pid, Signal::KILL);
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

fn pid_of(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// Ends everything that an ended rank left behind: its process group, and all processes that this one adopted. Returns
/// the number of processes that could not be ended.
pub(super) async fn end_descendants(rank: u32) -> usize {
    if let Some(pid) = pid_of(rank) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    end_children().await
}

/// Ends all children of this process, including adopted ones. Returns the number of children that could not be ended.
pub async fn end_children() -> usize {
    for _ in 0..40 {
        let mut left = 0;
        for child in children(std::process::id()) {
            left += 1;
            if let Some(pid) = pid_of(child) {
                let _ = kill_process(pid, Signal::KILL);
                // The runtime does not reap adopted children.
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
            }
        }
        if left == 0 {
            return 0;
        }
        sleep(Duration::from_millis(50)).await;
    }
    children(std::process::id()).len()
}

fn children(parent: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let of_task =
        |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("children")).ok();
    let text: String = tasks.filter_map(of_task).collect();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Returns the parent of this process if it is the daemon of `mpirun` on this host, or `mpirun` itself.
pub(super) fn daemon() -> Option<Pid> {
    rustix::process::getppid().filter(|&parent| is_daemon(parent))
}

/// Returns whether a process is `mpirun` or one of its daemons.
#[must_use]
pub fn is_daemon(pid: Pid) -> bool {
    ["orted", "mpirun", "mpiexec", "orterun"].contains(&name_of(pid).as_str())
}

/// Returns whether a process is a daemon of `mpirun`, and not `mpirun` itself.
pub(super) fn is_orted(pid: Pid) -> bool {
    name_of(pid) == "orted"
}

fn name_of(pid: Pid) -> String {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
    name.trim().to_owned()
}

/// Ends the daemon of `mpirun`. Without an order, or with nothing left to wait for, it would stay for minutes.
pub(super) fn end_daemon() {
    if let Some(daemon) = daemon() {
        let _ = kill_process(daemon, Signal::KILL);
    }
}
