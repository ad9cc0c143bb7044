//! Open MPI 4's session folders, in which the processes of a host share files: `ompi.HOST.UID/pid.PID` for `mpirun` and
//! `ompi.HOST.UID/jf.NUMBER` for its daemons, both in `TMPDIR`.
//!
//! A killed `mpirun` or daemon leaves about 7 MB there. A run with many restarts would fill the disk, or the memory if
//! `TMPDIR` is a tmpfs, so the launcher removes them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Removes the session folder of an `mpirun` that this process started and that has ended. `pid` is its process number,
/// if it had one.
pub fn remove_for_mpirun(temporary_folder: &Path, pid: Option<u32>) {
    pid.into_iter().for_each(|pid| remove(&folder_of_mpirun(temporary_folder, pid)));
}

/// Returns the session folder of an `mpirun` on this host.
fn folder_of_mpirun(temporary_folder: &Path, pid: u32) -> PathBuf {
    // Open MPI removes the domain of the host's name.
    let host = admiral_contract::host::host_name();
    let host = host.split('.').next().unwrap_or_default();
    let user = rustix::process::geteuid().as_raw();
    temporary_folder.join(format!("ompi.{host}.{user}")).join(format!("pid.{pid}"))
}

/// Removes a session folder whose daemon is gone. Errors are ignored: it may be gone already, and a leftover harms no
/// run.
pub fn remove(folder: &Path) {
    if is_session(folder) && is_own(folder) {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Returns whether a path has the form of a session folder of this user. Nothing else is ever removed.
#[must_use]
pub fn is_session(path: &Path) -> bool {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let number = |name: &str, beginning| {
        name.strip_prefix(beginning)
            .is_some_and(|rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let (folder, top) = (name(path), path.parent().map(name).unwrap_or_default());
    let user = format!(".{}", rustix::process::geteuid().as_raw());
    path.is_absolute()
        && (number(&folder, "pid.") || number(&folder, "jf."))
        && top.starts_with("ompi.")
        && top.ends_with(&user)
}

/// Returns whether a session folder belongs to this user and is no link. A link would lead elsewhere, and others may
/// write to the temporary folder.
fn is_own(path: &Path) -> bool {
    let is_mine = |path: &Path| {
        path.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw())
    };
    is_mine(path) && path.parent().is_some_and(is_mine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_session_folders_of_this_user_are_removed() {
        let place = tempfile::tempdir().expect("a folder");
        let user = rustix::process::geteuid().as_raw();
        let make = |path: String| {
            let path = place.path().join(path);
            std::fs::create_dir_all(path.join("0/0")).expect("a folder");
            path
        };
        for name in [format!("ompi.n0.{user}/pid.12"), format!("ompi.n0.{user}/jf.12")] {
            let folder = make(name);
            remove(&folder);
            assert!(!folder.exists(), "{folder:?}");
            assert!(folder.parent().is_some_and(Path::exists), "another mpirun may be about to use it");
            remove(&folder);
        }
        for name in [
            format!("ompi.n0.{user}/pid."),
            format!("ompi.n0.{user}/pid.12x"),
            format!("ompi.n0.{user}/other.12"),
            format!("ompi.n0.{user}7/pid.12"),
            format!("own.n0.{user}/pid.12"),
        ] {
            let folder = make(name);
            remove(&folder);
            assert!(folder.exists(), "{folder:?}");
        }
        let (link, target) = (place.path().join(format!("ompi.n0.{user}/jf.3")), make("target".into()));
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        remove(&link);
        assert!(target.join("0/0").exists(), "links are not followed");
    }

    #[test]
    fn the_folder_of_an_mpirun_is_a_session_folder() {
        let folder = folder_of_mpirun("/tmp".as_ref(), 7);
        assert!(is_session(&folder), "{folder:?}");
    }
}
