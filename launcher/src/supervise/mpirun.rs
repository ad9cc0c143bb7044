//! The `mpirun` of an attempt. It has its own session, so that Ctrl-C in a terminal reaches only the launcher.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::mpirun::MpirunCommand;
use crate::protocol::truncate_line;
use crate::session;

/// The number of lines of its output that are kept.
const MAX_LINES: usize = 1000;

/// A running `mpirun`.
#[derive(Debug)]
pub struct Mpirun {
    child: Child,
    /// Kept here, because a child that has ended has no process number any more.
    pid: Option<u32>,
    temporary_folder: PathBuf,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Mpirun {
    /// Starts it.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn start(plan: &MpirunCommand) -> std::io::Result<Self> {
        let mut command = Command::from(plan.command());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: setsid is allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let lines = Arc::default();
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(keep(stdout, Arc::clone(&lines)));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep(stderr, Arc::clone(&lines)));
        }
        Ok(Self { pid: child.id(), child, lines, temporary_folder: plan.temporary_folder.clone() })
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Kills it, and its children that share its session.
    pub fn kill(&self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Waits for its end, and kills it after `patience`.
    pub async fn end(&mut self, patience: Duration) {
        if timeout(patience, self.child.wait()).await.is_err() {
            self.kill();
            let _ = timeout(Duration::from_secs(2), self.child.wait()).await;
        }
        session::remove_for_mpirun(&self.temporary_folder, self.pid);
    }

    /// Returns its last lines of output.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

async fn keep(stream: impl AsyncRead + Unpin, lines: Arc<Mutex<VecDeque<String>>>) {
    let mut reader = BufReader::new(stream).split(b'\n');
    while let Ok(Some(line)) = reader.next_segment().await {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(truncate_line(String::from_utf8_lossy(&line).trim_end()).to_owned());
    }
}
