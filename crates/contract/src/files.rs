//! Opens files at fixed names in folders to which others may write, without following their links.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

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

/// Returns whether an error of the system follows from the path or its rights, so that a retry cannot help. A full disk is
/// none of these.
#[must_use]
pub fn is_wrong_place(error: &io::Error) -> bool {
    let of_path = matches!(
        error.kind(),
        ErrorKind::AlreadyExists
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
    );
    // A loop of links has no stable name in the standard library.
    of_path || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// A path leads to something else than a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is {0}, not a regular file")]
pub struct NotRegular(&'static str);

impl NotRegular {
    /// Returns what a path with this type is. `None` for a regular file.
    fn of(kind: FileType) -> Option<Self> {
        if kind.is_file() {
            return None;
        }
        Some(Self(match kind {
            kind if kind.is_dir() => "a folder",
            kind if kind.is_symlink() => "a symbolic link",
            kind if kind.is_fifo() => "a pipe (FIFO)",
            kind if kind.is_socket() => "a socket",
            _ => "a device",
        }))
    }
}

/// Opens a regular file with these options. A link is not followed.
///
/// # Errors
/// [`NotRegular`] in an error of the kind [`ErrorKind::Other`] if there is a link, a pipe or another kind of file. An error
/// of the system if the file cannot be opened.
pub fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    open_checked(path, options, OFlags::NOFOLLOW).map_err(|error| match std::fs::symlink_metadata(path) {
        Ok(meta) => explained(error, meta.file_type()),
        Err(_) => error,
    })
}

/// Opens a regular file for reading. Links are followed.
///
/// # Errors
/// [`NotRegular`] in an error of the kind [`ErrorKind::Other`] if there is a pipe or another kind of file. An error of the
/// system if the file cannot be opened.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    open_checked(path, File::options().read(true), OFlags::empty()).map_err(|error| match std::fs::metadata(path) {
        Ok(meta) => explained(error, meta.file_type()),
        Err(_) => error,
    })
}

/// Reads a regular file of at most `max_bytes` bytes. A link is not followed.
///
/// # Errors
/// As [`open_regular`], and if the file is longer.
pub fn read_regular(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path, File::options().read(true))?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::other(format!("it is longer than {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// Reads a text of at most `max_bytes` bytes, such as a configuration or a list of hosts. Links are followed. It may come
/// from a pipe, as with a shell's `<(command)`.
///
/// # Errors
/// If it cannot be read, is longer, or is not UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(max_bytes.saturating_add(1)).read_to_string(&mut text)?;
    if text.len() as u64 > max_bytes {
        return Err(io::Error::other(format!("it is longer than {max_bytes} bytes")));
    }
    Ok(text)
}

/// Opens a file, and checks the type of what was opened.
fn open_checked(path: &Path, options: &mut OpenOptions, flags: OFlags) -> io::Result<File> {
    // Opening a pipe would wait for its other end, and a terminal would become that of this process.
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    match NotRegular::of(file.metadata()?.file_type()) {
        None => Ok(file),
        Some(other) => Err(io::Error::other(other)),
    }
}

/// Returns an error of opening a path of this type that says what is there, because the errors of the system for links and
/// sockets do not.
fn explained(error: io::Error, kind: FileType) -> io::Error {
    NotRegular::of(kind).map_or(error, io::Error::other)
}

/// Returns whether a shell would read the path otherwise: it starts with `~`, or has a variable such as `$HOME`. A folder of
/// that name would be created, which nobody means.
#[must_use]
pub fn needs_shell(path: &str) -> bool {
    let is_variable =
        |rest: &str| rest.starts_with(|c: char| c == '{' || c == '_' || c == '(' || c.is_ascii_alphabetic());
    path.starts_with('~') || path.split('$').skip(1).any(is_variable)
}

/// Checks that a path of an option is whole, see [`needs_shell`].
///
/// # Errors
/// With a message that names the option.
pub fn check_expanded(option: &str, path: &Path) -> Result<(), String> {
    let shown = path.display().to_string();
    if needs_shell(&shown) {
        return Err(format!("{option}: {shown} is not expanded here; write the whole path"));
    }
    Ok(())
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
    fn texts_have_a_bound_and_may_come_from_a_pipe() {
        assert!(read_text(Path::new("/dev/zero"), 100).unwrap_err().to_string().contains("longer than 100 bytes"));
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"n1 slots=2\n").unwrap();
        drop(writer);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read_text(Path::new(&path), 11).unwrap(), "n1 slots=2\n");
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

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting_and_is_named() {
        let folder = std::env::temp_dir().join(format!("admiral-files-kinds-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        symlink("/dev/null", path("device")).unwrap();
        symlink(path("pipe"), path("link-to-pipe")).unwrap();
        std::fs::write(path("file"), "whole").unwrap();
        symlink(path("file"), path("link")).unwrap();
        symlink(path("nothing"), path("dangling")).unwrap();
        for (name, followed, itself) in [
            ("pipe", "a pipe", "a pipe"),
            ("socket", "a socket", "a socket"),
            ("device", "a device", "a symbolic link"),
            ("link-to-pipe", "a pipe", "a symbolic link"),
            ("", "a folder", "a folder"),
        ] {
            for (error, word) in [
                (open_to_read(&path(name)).unwrap_err(), followed),
                (read_regular(&path(name), 9).unwrap_err(), itself),
            ] {
                assert!(error.get_ref().is_some_and(|inner| inner.is::<NotRegular>()), "{name}: {error:?}");
                assert!(error.to_string().contains(word), "{name}: {error}");
            }
        }
        assert!(open_to_read(&path("link")).is_ok() && open_to_read(&path("file")).is_ok());
        assert_eq!(open_to_read(&path("dangling")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(read_regular(&path("file"), 5).unwrap(), b"whole");
        assert!(read_regular(&path("file"), 4).unwrap_err().to_string().contains("longer than 4 bytes"));
        assert!(read_regular(&path("link"), 5).unwrap_err().to_string().contains("a symbolic link"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
