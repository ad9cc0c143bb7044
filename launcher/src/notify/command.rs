//! Runs a command for each notification.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admiral_contract::secret::masked_output;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, Command};
use tokio::time::timeout;

use super::message::Message;

/// At most this many bytes of what a failing command says are read, and this many characters are repeated.
const MAX_SAID: usize = 4096;
const MAX_REPEATED: usize = 300;
/// After the end of a command, the rest of its output has this long to arrive. A child of it may still hold the pipe.
const REST: Duration = Duration::from_millis(200);

/// Ends all processes of a command when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have ended.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs a command with the notification on its standard input and in variables. All its processes end with it, or after
/// `limit`, or when this future is dropped.
///
/// # Errors
/// If it cannot be started, fails or takes too long: why, as text.
pub(super) async fn run(argv: &[String], message: &Message, limit: Duration) -> Result<(), String> {
    let [program, arguments @ ..] = argv else { return Err("the command is empty".to_owned()) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("ADMIRAL_EVENT", message.event.name())
        .env("ADMIRAL_RUN", &message.run)
        .env("ADMIRAL_STEP", message.step.to_string())
        .env("ADMIRAL_MESSAGE", &message.text)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let json = message.json();
    let run = async {
        if let Some(mut stdin) = stdin {
            // A command that reads nothing closes it. What counts is its exit status.
            let _ = stdin.write_all(&json).await;
        }
        child.wait().await
    };
    let said = Arc::new(Mutex::new(Vec::new()));
    let mut listening = tokio::spawn(keep_first(stderr, Arc::clone(&said)));
    let ended =
        timeout(limit, run).await.map_err(|_| format!("{program} did not end within {} s", limit.as_secs_f64()));
    drop(group);
    let status = ended?.map_err(|error| format!("{program} cannot be waited for: {error}"))?;
    if status.success() {
        listening.abort();
        return Ok(());
    }
    let _ = timeout(REST, &mut listening).await;
    listening.abort();
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = String::from_utf8_lossy(&said).into_owned();
    if said.len() == MAX_SAID {
        // A secret of which the end is missing would not be found.
        text.truncate(text.rfind(char::is_whitespace).unwrap_or(0));
    }
    let shown: String = masked_output(argv, text.trim()).chars().take(MAX_REPEATED).collect();
    Err(format!("{program} failed ({status}): {shown}"))
}

/// Reads everything, so that the command does not wait, and keeps its beginning.
async fn keep_first(source: Option<ChildStderr>, kept: Arc<Mutex<Vec<u8>>>) {
    let Some(mut source) = source else { return };
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = source.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_SAID - kept.len();
        kept.extend(&buffer[..length.min(room)]);
    }
}
