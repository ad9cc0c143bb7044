//! The files of a launch in the run's folder. Each is written to a temporary file and renamed.
//!
//! ```text
//! RUN/failure.json                        the newest incident
//! RUN/launch/state.json                   the state that `status` shows, rewritten every second
//! RUN/launch/receipt.json                 the result of the preflight
//! RUN/launch/attempt-001/rank-003.log     a rank's whole output; mpirun.log has that of mpirun
//! RUN/launch/incidents/001/failure.json   one folder for each incident
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use admiral_contract::files::{open_regular, replace};
use admiral_contract::host::{Life, host_name};
use admiral_contract::run_folder::{LinkedFolder, check_no_links_out};
use rustix::fs::FlockOperation;
use serde::Serialize;

use crate::paths::{incident_of, receipt_of, state_of};
use crate::status::{Condition, State};

/// A file of the launch cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A system call failed.
    #[error(
        "{path}: {source}; make it writable, or name another folder: run.folder, or --run-folder of a sampling job"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A folder of the launch is a link to another place.
    #[error(transparent)]
    Linked(#[from] LinkedFolder),
    /// Another launcher has the run.
    #[error(
        "another admiral-launch ({who}) runs {run} already; stop it first, or name another folder: run.folder, or \
         --run-folder of a sampling job"
    )]
    Busy {
        /// The run's folder.
        run: PathBuf,
        /// The process and host of the other launcher.
        who: String,
    },
}

/// The folder of a launch. While this value lives, no other launcher can take the run.
#[derive(Debug)]
pub struct Files {
    run: PathBuf,
    /// Holds the lock.
    _lock: File,
    is_locked: bool,
}

/// The largest number of an attempt or an incident that counts.
const MAX_NUMBER: u64 = 999_999_999;

/// The bytes of a lock file that are read.
const MAX_WHO: u64 = 1024;

/// How long a launcher on another machine may be silent before it counts as dead. As long as the lease of the checkpoints.
const SILENCE: Duration = Duration::from_secs(35);

/// Returns whether the launcher that wrote `state` still has the run. If nobody but its file can tell, this waits for the
/// next write, because the clocks of two machines cannot be compared.
fn is_held(run: &Path, state: &State, tell: impl Fn(&str)) -> bool {
    match state.life() {
        Life::Alive => return true,
        Life::Dead => return false,
        Life::Unknown => {}
    }
    tell(&format!(
        "an admiral-launch on {} had {}; waiting up to {} s for a sign of life",
        state.launcher_host,
        run.display(),
        SILENCE.as_secs()
    ));
    let end = Instant::now() + SILENCE;
    let mut was_read = false;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(250));
        let Ok(now) = crate::status::read(run) else { continue };
        was_read = true;
        if now.updated != state.updated || now.launch_id != state.launch_id {
            return now.condition != Condition::Ended;
        }
    }
    // If the file could never be read, the launcher may have written it.
    !was_read
}

impl Files {
    /// Takes the run's folder for this launcher. This may wait for seconds, and `tell` then says why.
    ///
    /// # Errors
    /// If it cannot be written, or another launcher has it.
    pub fn take(run: &Path, tell: impl Fn(&str)) -> Result<Self, FilesError> {
        let folder = run.join("launch");
        let path = folder.join("lock");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FilesError::Io { path, source }
        };
        check_no_links_out(run)?;
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let mut lock = open_regular(&path, File::options().create(true).truncate(false).read(true).write(true))
            .map_err(failed(&path))?;
        let is_locked = match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => true,
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut who = Vec::new();
                // Best effort, because the lock says enough.
                let _ = (&lock).take(MAX_WHO).read_to_end(&mut who);
                let who = String::from_utf8_lossy(&who).lines().next().unwrap_or_default().trim().to_owned();
                return Err(FilesError::Busy { run: run.to_owned(), who });
            }
            // The file system has no locks.
            Err(_) => false,
        };
        // On a shared file system, locks may be visible to one host only, or to none.
        let here = host_name();
        if let Ok(state) = crate::status::read(run)
            && is_held(run, &state, tell)
        {
            let who = format!("process {} on {}", state.launcher_pid, state.launcher_host);
            return Err(FilesError::Busy { run: run.to_owned(), who });
        }
        let who = format!("process {} on {here}\n", std::process::id());
        lock.set_len(0).and_then(|()| lock.write_all(who.as_bytes())).map_err(failed(&path))?;
        Ok(Self { run: run.to_owned(), _lock: lock, is_locked })
    }

    /// Returns whether the file system's lock keeps other launchers away. If not, only the state file does.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// Returns the run's folder.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Returns the path of the state file.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        state_of(&self.run)
    }

    /// Returns the path of the preflight's result.
    #[must_use]
    pub fn receipt(&self) -> PathBuf {
        receipt_of(&self.run)
    }

    /// Returns the folder of an attempt. Attempts count from 0.
    #[must_use]
    pub fn attempt(&self, attempt: u64) -> PathBuf {
        self.run.join(format!("launch/attempt-{attempt:03}"))
    }

    /// Returns the path of an incident. Incidents count from 1.
    #[must_use]
    pub fn incident(&self, number: u64) -> PathBuf {
        incident_of(&self.run, number)
    }

    /// Returns the path of the newest incident's copy.
    #[must_use]
    pub fn failure(&self) -> PathBuf {
        self.run.join("failure.json")
    }

    /// Returns the first unused number of an attempt and the last used number of an incident, so that numbers continue
    /// those of earlier launches.
    #[must_use]
    pub fn used_numbers(&self) -> (u64, u64) {
        let highest = |folder: PathBuf, prefix: &str| {
            let Ok(entries) = std::fs::read_dir(folder) else { return None };
            let number = |entry: std::io::Result<std::fs::DirEntry>| {
                entry.ok()?.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()
            };
            // A larger number is not from a launch, and the next one may not exist.
            let number = |entry| number(entry).filter(|&number: &u64| number <= MAX_NUMBER);
            entries.filter_map(number).max()
        };
        let attempts = highest(self.run.join("launch"), "attempt-").map_or(0, |number| number + 1);
        (attempts, highest(self.run.join("launch/incidents"), "").unwrap_or(0))
    }
}

/// Writes `content` as JSON atomically, and creates the folder.
///
/// # Errors
/// If a system call fails.
pub fn write_json(path: &Path, content: &impl Serialize) -> Result<(), FilesError> {
    write_atomically(path, &to_json(path, content)?)
}

/// Returns the text of a JSON file. `path` is for messages.
///
/// # Errors
/// If the content cannot be expressed as JSON.
pub(crate) fn to_json(path: &Path, content: &impl Serialize) -> Result<Vec<u8>, FilesError> {
    let mut text = serde_json::to_vec_pretty(content)
        .map_err(|error| FilesError::Io { path: path.to_owned(), source: error.into() })?;
    text.push(b'\n');
    Ok(text)
}

/// Writes a file aside, and renames it when its content is on the disk. Creates the folder.
///
/// # Errors
/// If a system call fails.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<(), FilesError> {
    let failed = |source| FilesError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    replace(path, ".new", |mut file| file.write_all(content).map(|()| file)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_run_has_one_launcher() {
        let run = tempfile::tempdir().expect("a folder");
        let first = Files::take(run.path(), |_| {}).expect("it is free");
        let error = Files::take(run.path(), |_| {}).expect_err("it is taken").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Files::take(run.path(), |_| {}).expect("it is free again");
    }

    #[test]
    fn a_live_launcher_keeps_its_run_without_locks() {
        let run = tempfile::tempdir().expect("a folder");
        let mut state = State {
            launcher_host: "elsewhere".into(),
            launcher_machine: "elsewhere".into(),
            // Its clock is an hour behind.
            ..State::of_launch("l".into(), Timestamp::now() - jiff::Span::new().hours(1))
        };
        write_json(&state_of(run.path()), &state).expect("it can be written");
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(600));
                let updated = state.updated + jiff::Span::new().seconds(1);
                write_json(&state_of(run.path()), &State { updated, ..state.clone() }).expect("it can be written");
            });
            Files::take(run.path(), |_| {}).expect_err("it is taken").to_string()
        });
        assert!(error.contains(&format!("process {} on elsewhere", std::process::id())), "{error}");
        state.condition = Condition::Ended;
        write_json(&state_of(run.path()), &state).expect("it can be written");
        assert!(Files::take(run.path(), |_| {}).expect("it has ended").is_locked());
    }

    #[test]
    fn numbers_continue_after_earlier_launches() {
        let run = tempfile::tempdir().expect("a folder");
        let files = Files::take(run.path(), |_| {}).expect("it is free");
        assert_eq!(files.used_numbers(), (0, 0));
        write_json(&files.incident(3), &1).expect("it can be written");
        std::fs::create_dir_all(files.attempt(4)).expect("it can be made");
        for name in ["attempt-18446744073709551615", "attempt-1000000000", "incidents/18446744073709551615"] {
            std::fs::create_dir_all(run.path().join("launch").join(name)).expect("it can be made");
        }
        assert_eq!(files.used_numbers(), (5, 3));
        assert_eq!(std::fs::read_to_string(files.incident(3)).expect("it is there"), "1\n");
    }

    #[test]
    fn a_link_in_the_way_is_replaced_and_not_followed() {
        let run = tempfile::tempdir().expect("a folder");
        let victim = run.path().join("victim");
        std::fs::write(&victim, "whole").expect("it can be written");
        for name in ["state.json.new", "state.json"] {
            std::os::unix::fs::symlink(&victim, run.path().join(name)).expect("a link");
        }
        write_json(&run.path().join("state.json"), &1).expect("it can be written");
        assert_eq!(std::fs::read_to_string(run.path().join("state.json")).expect("it is there"), "1\n");
        assert_eq!(std::fs::read_to_string(&victim).expect("it is there"), "whole");
    }

    #[test]
    fn nothing_is_written_through_a_link_out_of_the_runs_folder() {
        let place = tempfile::tempdir().expect("a folder");
        let (run, other) = (place.path().join("run"), place.path().join("other"));
        std::fs::create_dir(&run).expect("a folder");
        std::fs::create_dir(&other).expect("a folder");
        for name in ["launch", "goodput"] {
            std::os::unix::fs::symlink(&other, run.join(name)).expect("a link");
            let error = Files::take(&run, |_| {}).expect_err("it is a link").to_string();
            assert!(error.contains(&format!("run/{name} is a symbolic link")), "{error}");
            std::fs::remove_file(run.join(name)).expect("it is there");
        }
        assert_eq!(std::fs::read_dir(&other).expect("it is there").count(), 0);
        assert_eq!(std::fs::read_dir(&run).expect("it is there").count(), 0);
    }
}
