//! A file to which lines are appended by a thread of its own.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::files::open_regular;

/// The lines that may wait for the disk. Further ones are lost.
const MAX_WAITING: usize = 4096;

/// The time between two looks at the thread that writes.
const POLL: Duration = Duration::from_millis(5);

/// What happens if the file exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Lines are lost, and the file stays as it is.
    Refuse,
    /// Lines are appended to it.
    Append,
}

/// Appends lines to a file: a disk that hangs or is full keeps nobody waiting. Each line is one write, so that after a
/// kill only the last line may be incomplete. An incomplete line ends before the next one.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    /// What follows from lost lines, for the message.
    loss: &'static str,
    lines: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    problem: Option<String>,
    num_lost: u64,
}

impl LineFile {
    /// Starts the thread. The file and its folder are created with the first line. `loss` says what follows from lost
    /// lines.
    ///
    /// # Errors
    /// If the system provides no thread.
    pub fn start(path: PathBuf, existing: Existing, loss: &'static str) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let state = Arc::<Mutex<State>>::default();
        let (of_thread, shared) = (path.clone(), Arc::clone(&state));
        let write = move || write_all(&of_thread, existing, loss, &receiver, &shared);
        let thread = std::thread::Builder::new().name("lines".into()).spawn(write)?;
        Ok(Self { path, loss, lines: Some(sender), thread: Some(thread), state })
    }

    /// Appends a line, which is given without its end. Never waits.
    pub fn append(&self, mut line: Vec<u8>) {
        let Some(lines) = &self.lines else { return };
        line.push(b'\n');
        if lines.try_send(line).is_err() {
            self.lose("the disk does not answer");
        }
    }

    /// Returns why lines were lost, if some were.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// Returns the number of lines that were lost.
    #[must_use]
    pub fn num_lost(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).num_lost
    }

    /// Returns when all lines are written, or after `patience`. Returns why lines were lost, if some were.
    #[must_use]
    pub fn finish(mut self, patience: Duration) -> Option<String> {
        self.lines = None;
        let end = Instant::now() + patience;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= end {
                self.lose("the disk does not answer");
                break;
            }
            std::thread::sleep(POLL);
        }
        self.problem()
    }

    fn lose(&self, reason: &str) {
        lose(&self.state, &self.path, reason, self.loss);
    }
}

/// Counts a lost line, and keeps the first reason.
fn lose(state: &Mutex<State>, path: &Path, reason: &str, loss: &str) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.num_lost += 1;
    state.problem.get_or_insert_with(|| format!("{}: {reason}; {loss}", path.display()));
}

/// Writes lines as they come. After an error, the next line makes the next try.
fn write_all(path: &Path, existing: Existing, loss: &str, lines: &Receiver<Vec<u8>>, state: &Mutex<State>) {
    let (mut file, mut is_torn) = (None, false);
    for line in lines {
        let written = open(&mut file, path, existing, &mut is_torn).and_then(|file| {
            if is_torn {
                file.write_all(b"\n")?;
            }
            // Until the whole line is written.
            is_torn = true;
            file.write_all(&line)?;
            is_torn = false;
            Ok(())
        });
        if let Err(error) = written {
            lose(state, path, &error.to_string(), loss);
        }
    }
}

/// Opens the file unless it is open. Sets whether its last line is incomplete.
fn open<'a>(
    file: &'a mut Option<File>,
    path: &Path,
    existing: Existing,
    is_torn: &mut bool,
) -> io::Result<&'a mut File> {
    match file {
        Some(file) => Ok(file),
        None => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut options = File::options();
            let opened = match existing {
                Existing::Refuse => open_regular(path, options.append(true).create_new(true))?,
                Existing::Append => {
                    let mut opened = open_regular(path, options.read(true).append(true).create(true))?;
                    *is_torn = !ends_a_line(&mut opened)?;
                    opened
                }
            };
            Ok(file.insert(opened))
        }
    }
}

/// Returns whether a file is empty or ends with the end of a line.
fn ends_a_line(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn append(path: &Path, existing: Existing, lines: &[&str]) -> Option<String> {
        let file = LineFile::start(path.to_owned(), existing, "lines are lost").unwrap();
        lines.iter().for_each(|line| file.append(line.as_bytes().to_vec()));
        file.finish(PATIENCE)
    }

    #[test]
    fn lines_are_appended_after_an_incomplete_one() {
        let folder = std::env::temp_dir().join(format!("admiral-lines-{}", std::process::id()));
        let path = folder.join("new/lines");
        assert_eq!(append(&path, Existing::Append, &["one", "two"]), None);
        let mut torn = File::options().append(true).open(&path).unwrap();
        torn.write_all(b"thr").unwrap();
        assert_eq!(append(&path, Existing::Append, &["four"]), None);
        let expected = "one\ntwo\nthr\nfour\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        let refused = append(&path, Existing::Refuse, &["five"]).unwrap();
        assert!(refused.contains("new/lines: ") && refused.ends_with("; lines are lost"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_link_is_not_followed_and_losses_are_counted() {
        let folder = std::env::temp_dir().join(format!("admiral-lines-link-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let link = folder.join("link");
        std::os::unix::fs::symlink(folder.join("theirs"), &link).unwrap();
        let file = LineFile::start(link, Existing::Append, "lines are lost").unwrap();
        file.append(b"one".to_vec());
        file.append(b"two".to_vec());
        while file.num_lost() < 2 {
            std::thread::sleep(POLL);
        }
        assert!(file.finish(PATIENCE).is_some() && !folder.join("theirs").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
