//! Opens files at fixed names in folders to which others may write, without following their links.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Creates a file in the place of an existing one, which may be a link or a pipe and is removed.
///
/// # Errors
/// If the existing one cannot be removed, or the file cannot be created.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => File::options().write(true).create_new(true).open(path),
    }
}

/// Replaces the file `path` by what `write` writes. The content goes to `<path><suffix>` first, is synced, and gets its name
/// at the end. After an error, an existing file is unchanged.
///
/// # Errors
/// The error of `write`, or if the file cannot be created, synced or renamed.
pub fn replace<E: From<io::Error>>(
    path: &Path,
    suffix: &str,
    write: impl FnOnce(File) -> Result<File, E>,
) -> Result<(), E> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(suffix);
    let aside = Path::new(&aside);
    let written = write(create_anew(aside)?)
        .and_then(|file| file.sync_all().map_err(E::from))
        .and_then(|()| std::fs::rename(aside, path).map_err(E::from));
    if written.is_err() {
        // The first error is reported, not an error of this removal.
        let _ = std::fs::remove_file(aside);
    }
    written
}

/// Opens a regular file with these options.
///
/// # Errors
/// If there is a link, a pipe or another kind of file, or the file cannot be opened.
pub fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Opening a pipe would wait for its other end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Returns whether a shell would read the path otherwise: it starts with `~`, or has a variable such as `$HOME`. A folder of
/// that name would be created, which nobody means.
#[must_use]
pub fn needs_shell(path: &str) -> bool {
    let is_variable =
        |rest: &str| rest.starts_with(|c: char| c == '{' || c == '_' || c == '(' || c.is_ascii_alphabetic());
    path.starts_with('~') || path.split('$').skip(1).any(is_variable)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_that_only_a_shell_expands_are_told() {
        for path in ["~/x", "~", "$HOME/x", "a/${RUNS}", "$(pwd)/x", "a$_"] {
            assert!(needs_shell(path), "{path}");
        }
        for path in ["a/~/b", "x~", "100$", "a$/b", "a$1", ""] {
            assert!(!needs_shell(path), "{path}");
        }
    }

    #[test]
    fn links_are_neither_followed_nor_changed() {
        let folder = std::env::temp_dir().join(format!("admiral-files-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (theirs, link) = (folder.join("theirs"), folder.join("link"));
        std::fs::write(&theirs, "whole").unwrap();
        symlink(&theirs, &link).unwrap();
        assert!(open_regular(&link, File::options().append(true)).is_err());
        create_anew(&link).unwrap().write_all(b"mine").unwrap();
        assert_eq!(std::fs::read(&theirs).unwrap(), b"whole");
        assert_eq!(std::fs::read(&link).unwrap(), b"mine");
        open_regular(&link, File::options().append(true)).unwrap().write_all(b"!").unwrap();
        assert_eq!(std::fs::read(&link).unwrap(), b"mine!");
        assert!(open_regular(&folder, File::options().read(true)).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
