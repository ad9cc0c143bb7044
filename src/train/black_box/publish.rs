//! Writes capsules to the run's folder.

use std::fs::DirEntry;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use admiral_telemetry::write_file;

use super::capsule::{Capsule, FILE, Reason};

/// The folder of capsules in the run's folder.
const FOLDER: &str = "black-box";

/// The most capsules of a run for each reason. Further ones are not written, so that a run cannot fill a disk.
const MAX_CAPSULES: usize = 10;

/// How long a run waits for the disk. It must end even if the disk hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes a capsule to a folder of its own in the run's folder, and returns that folder.
///
/// # Errors
/// When it cannot be written soon, or the run has enough capsules already, with the reason.
pub(super) fn publish(run_folder: &Path, capsule: &Capsule) -> Result<PathBuf, String> {
    let text = serde_json::to_vec_pretty(capsule).map_err(|error| error.to_string())?;
    let (folder, reason) = (run_folder.join(FOLDER), name_of(capsule.reason));
    let name = format!("step-{:09}-{reason}", capsule.step);
    let (sender, receiver) = sync_channel(1);
    let shown = folder.display().to_string();
    let write = move || {
        // Nobody receives it after the patience has ended.
        let _ = sender.send(write(&folder, &name, reason, &text));
    };
    std::thread::Builder::new().name("black-box".into()).spawn(write).map_err(|error| error.to_string())?;
    let written = receiver.recv_timeout(PATIENCE).map_err(|_| format!("{shown}: the disk does not answer"))?;
    written.map_err(|error| format!("{shown}: {error}"))
}

fn name_of(reason: Reason) -> &'static str {
    match reason {
        Reason::NotFinite => "not-finite",
        Reason::LossJump => "loss-jump",
    }
}

/// Writes a capsule to the folder `name`, or to one with a number after it. `reason` is part of the name.
fn write(folder: &Path, name: &str, reason: &str, text: &[u8]) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let is_same = |entry: &io::Result<DirEntry>| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains(reason))
    };
    if std::fs::read_dir(folder)?.filter(is_same).count() >= MAX_CAPSULES {
        return Err(io::Error::other(format!("there are {MAX_CAPSULES} capsules of {reason} already; move some away")));
    }
    // Another attempt of the run may have failed in the same step.
    for number in 1..=MAX_CAPSULES {
        let own = folder.join(if number == 1 { name.to_owned() } else { format!("{name}-{number}") });
        match std::fs::create_dir(&own) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => return write_file(&own.join(FILE), text).map(|()| own),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn capsules_of_one_step_have_own_folders_and_their_number_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name, reason| write(folder.path(), name, reason, b"{}");
        for number in 1..=MAX_CAPSULES {
            let own = write("step-7-loss-jump", "loss-jump").unwrap();
            assert_eq!(std::fs::read(own.join(FILE)).unwrap(), b"{}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), number);
        }
        let error = write("step-8-loss-jump", "loss-jump").unwrap_err().to_string();
        assert!(error.contains("10 capsules of loss-jump already"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), MAX_CAPSULES);
        // Jumps of the loss leave room for the step that ends the run.
        write("step-9-not-finite", "not-finite").unwrap();
    }
}
