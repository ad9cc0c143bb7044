//! An `mpirun` that runs for a short time.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use admiral_contract::host::ProcessStat;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::session;

/// The time for output that is still on its way after the end.
pub(super) const OUTPUT_GRACE: Duration = Duration::from_millis(500);
/// The number of bytes of output that are kept.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// A running `mpirun`. It is killed when this value is dropped.
pub(super) struct ShortMpirun {
    pub(super) child: Child,
    streams: [JoinHandle<Vec<u8>>; 2],
    temporary_folder: PathBuf,
}

impl ShortMpirun {
    /// Starts it. Open MPI creates its session folder in `temporary_folder`.
    pub(super) fn start(command: std::process::Command, temporary_folder: &Path) -> io::Result<Self> {
        let mut command = Command::from(command);
        // It gets its own process group, because Ctrl-C in a terminal is for the launcher.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let streams = [tokio::spawn(read(child.stdout.take())), tokio::spawn(read(child.stderr.take()))];
        Ok(Self { child, streams, temporary_folder: temporary_folder.to_owned() })
    }

    /// Waits for its end and its output, and kills it after `patience`. Its remote agents have their own process groups
    /// and would outlive it, so they are killed too.
    pub(super) async fn end(mut self, patience: Duration) -> MpirunOutput {
        let status = match timeout(patience, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                let pid = self.child.id();
                let agents = pid.map(descendants).unwrap_or_default();
                // They may be gone already.
                let _ = self.child.start_kill();
                for agent in agents {
                    let _ = kill_process(agent, Signal::KILL);
                }
                let _ = timeout(OUTPUT_GRACE, self.child.wait()).await;
                session::remove_for_mpirun(&self.temporary_folder, pid);
                None
            }
        };
        let mut texts = Vec::new();
        for stream in self.streams {
            let text = timeout(OUTPUT_GRACE, stream).await.ok().and_then(Result::ok).unwrap_or_default();
            texts.push(String::from_utf8_lossy(&text).into_owned());
        }
        let stderr = texts.pop().unwrap_or_default();
        MpirunOutput { status, stdout: texts.pop().unwrap_or_default(), stderr }
    }
}

/// The output of an `mpirun`, and how it ended.
#[derive(Debug)]
pub(super) struct MpirunOutput {
    /// `None` if it had to be killed.
    pub(super) status: Option<ExitStatus>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl MpirunOutput {
    /// Returns the lines of both streams.
    pub(super) fn lines(&self) -> Vec<String> {
        self.stdout.lines().chain(self.stderr.lines()).map(str::to_owned).collect()
    }
}

/// Returns the beginning of a process's output.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut said = Vec::new();
    if let Some(mut pipe) = pipe {
        // Output before an error is still useful. The rest is discarded, so that the process is not blocked.
        let _ = (&mut pipe).take(MAX_OUTPUT_BYTES).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    said
}

/// Returns all descendants of a process.
fn descendants(of: u32) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| ProcessStat::of(pid).map(|stat| stat.parent);
    let parents: Vec<(u32, u32)> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![of];
    let mut place = 0;
    while place < found.len() {
        let above = found[place];
        found.extend(parents.iter().filter(|&&(_, parent)| parent == above).map(|&(pid, _)| pid));
        place += 1;
    }
    found[1..].iter().filter_map(|&pid| Pid::from_raw(i32::try_from(pid).ok()?)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn descendants_are_found() {
        let mut shell = std::process::Command::new("sh").args(["-c", "sleep 600 & wait"]).spawn().unwrap();
        // The shell takes a moment to fork.
        while descendants(shell.id()).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let own = descendants(std::process::id());
        let below = descendants(shell.id());
        assert!(own.contains(&below[0]) && own.len() > below.len());
        for pid in below {
            kill_process(pid, Signal::KILL).unwrap();
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[tokio::test]
    async fn descendants_are_ended_with_their_mpirun() {
        let mut command = std::process::Command::new("sh");
        // As with mpirun, the child has its own process group.
        let folder = tempfile::tempdir().unwrap();
        let said_all = folder.path().join("said-all");
        command.args(["-c", "echo out; echo err >&2; setsid sleep 600 & echo $!; touch \"$0\"; wait"]).arg(&said_all);
        let running = ShortMpirun::start(command, folder.path()).unwrap();
        while !said_all.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let said = running.end(Duration::ZERO).await;
        assert!(said.status.is_none());
        assert_eq!((said.lines()[0].as_str(), said.stderr.as_str()), ("out", "err\n"));
        let child = format!("/proc/{}/stat", said.lines()[1]);
        for _ in 0..200 {
            // If no parent reaps it, it stays a zombie.
            match std::fs::read_to_string(&child) {
                Ok(stat) if !stat.contains(") Z ") => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => return,
            }
        }
        panic!("{child} is still there");
    }
}
