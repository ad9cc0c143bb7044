//! The folders that a run makes inside of its own folder.

use std::io;
use std::path::{Path, PathBuf};

/// The folders that the launcher and the ranks make in the run's folder.
const FOLDERS: [&str; 6] = ["launch", "launch/incidents", "goodput", "tensorboard", "black-box", "drills"];

/// The folder of the launcher's files in the run's folder, and how the names of the folders of its attempts begin.
const LAUNCH: (&str, &str) = ("launch", "attempt-");

/// A folder in the run's folder is a symbolic link to another place.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} is a symbolic link that leads out of the run's folder, and nothing is written through it; remove it, or put \
     a folder there"
)]
pub struct LinkedFolder {
    /// The link.
    pub path: PathBuf,
}

/// Checks that the folders that a run makes in its folder are no symbolic links out of it: others may write to the run's
/// folder, and a link would make the run write elsewhere. The run's folder itself may be a link. Call this before anything
/// is written there.
///
/// # Errors
/// [`LinkedFolder`] with the first such link.
pub fn check_no_links_out(run_folder: &Path) -> Result<(), LinkedFolder> {
    // Without the folder, there are no links in it.
    let Ok(real) = std::fs::canonicalize(run_folder) else { return Ok(()) };
    let (launch, attempt) = LAUNCH;
    let attempts = names_in(&run_folder.join(launch)).unwrap_or_default().into_iter();
    let attempts = attempts.filter(|name| name.starts_with(attempt)).map(|name| Path::new(launch).join(name));
    for name in FOLDERS.into_iter().map(PathBuf::from).chain(attempts) {
        let path = run_folder.join(name);
        let is_link = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_symlink());
        // A link to nothing cannot be a folder either.
        if is_link && !std::fs::canonicalize(&path).is_ok_and(|target| target.starts_with(&real)) {
            return Err(LinkedFolder { path });
        }
    }
    Ok(())
}

/// Returns the names in a folder that are UTF-8, as those of this program are.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_out_of_the_runs_folder_are_refused_and_others_are_not() {
        let root = std::env::temp_dir().join(format!("admiral-run-folder-{}", std::process::id()));
        let (run, elsewhere, linked) = (root.join("run"), root.join("elsewhere"), root.join("linked"));
        check_no_links_out(&run).unwrap();
        std::fs::create_dir_all(run.join("launch")).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        symlink(&run, &linked).unwrap();
        check_no_links_out(&linked).unwrap();
        for name in FOLDERS.iter().skip(1).copied().chain(["launch/attempt-001"]) {
            for target in [&elsewhere, &root.join("nothing"), Path::new("..")] {
                symlink(target, run.join(name)).unwrap();
                for folder in [&run, &linked] {
                    // The parent of `launch/incidents` is in the run's folder.
                    if target == Path::new("..") && name.contains('/') {
                        check_no_links_out(folder).unwrap();
                        continue;
                    }
                    let error = check_no_links_out(folder).unwrap_err().to_string();
                    assert!(error.starts_with(&folder.join(name).display().to_string()), "{error}");
                }
                std::fs::remove_file(run.join(name)).unwrap();
            }
            symlink(run.join("launch"), run.join(name)).unwrap();
            check_no_links_out(&linked).unwrap();
            std::fs::remove_file(run.join(name)).unwrap();
        }
        std::fs::remove_dir(run.join("launch")).unwrap();
        symlink(&elsewhere, run.join("launch")).unwrap();
        assert!(check_no_links_out(&run).is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
