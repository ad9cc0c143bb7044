//! Running other programs, which may hang.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The interval of checks whether a program has ended.
const POLL: Duration = Duration::from_millis(5);

/// There is no output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoOutput {
    /// There is no such program.
    Absent,
    /// The program could not be started, or did not end in time.
    Failed(String),
}

/// Returns the output of a program. A program that does not end within `patience` is killed and not waited for, because
/// a process that hangs in a driver does not die.
pub(super) fn output(command: &mut Command, patience: Duration) -> Result<Output, NoOutput> {
    let name = command.get_program().display().to_string();
    let deadline = Instant::now() + patience;
    let mut child = match command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(NoOutput::Absent),
        Err(error) => return Err(NoOutput::Failed(format!("{name} cannot be started: {error}"))),
    };
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let late = || NoOutput::Failed(format!("{name} did not end within {} s", patience.as_secs()));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
            Ok(None) => {
                // It may be gone already.
                let _ = child.kill();
                return Err(late());
            }
            Err(error) => return Err(NoOutput::Failed(format!("{name} is lost: {error}"))),
        }
    };
    // Processes that the program left running may hold the pipes open.
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
    let stdout = stdout.recv_timeout(left()).map_err(|_| late())?;
    let stderr = stderr.recv_timeout(left()).map_err(|_| late())?;
    Ok(Output { status, stdout, stderr })
}

/// Returns the last line that is not empty, of the standard error or else of the standard output.
pub(super) fn last_line(output: &Output) -> String {
    let text = [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
    let words = text.iter().find_map(|text| text.lines().last()).unwrap_or("it says nothing");
    format!("{words} ({})", output.status)
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // Output before an error is still useful.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_output_of_a_program_is_read_until_a_timeout() {
        let long = Duration::from_secs(60);
        let said = output(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), long).unwrap();
        assert_eq!((said.stdout.as_slice(), said.status.code()), (b"out\n".as_slice(), Some(3)));
        assert_eq!(last_line(&said), "err (exit status: 3)");
        assert_eq!(output(&mut Command::new("no-such-program-at-all"), long).unwrap_err(), NoOutput::Absent);
        let late = output(Command::new("sleep").arg("600"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(late, NoOutput::Failed("sleep did not end within 0 s".into()));
    }

    #[test]
    fn output_larger_than_a_pipe_is_read() {
        let said = output(Command::new("head").args(["-c", "1000000", "/dev/zero"]), Duration::from_secs(60)).unwrap();
        assert_eq!(said.stdout.len(), 1_000_000);
    }
}
