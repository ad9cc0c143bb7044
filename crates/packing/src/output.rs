//! The place of the shards: a local folder, or a store.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use admiral_containers::names_a_file;
use admiral_contract::files::{create_anew, open_regular, read_regular};
use admiral_storage::{Location, Store, StoreOptions, hex, never, upload_stream};
use admiral_telemetry::write_file;
use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::shard::Finished;

/// The folder of the state and of the index.
const OWN_FOLDER: &str = ".admiral";

/// The file that a packing continues from.
const STATE: &str = ".admiral/pack.json";

/// The shard that is being written, in a local folder.
const ASIDE: &str = ".packing.tar.partial";

/// The most bytes of a state: 1 KB for each of many shards and broken images.
const MAX_STATE_BYTES: u64 = 1 << 30;

/// The bytes of one piece of an upload.
const PIECE: u64 = 8 << 20;

/// The slowest upload that is waited for, in bytes per second.
const MIN_BYTES_PER_SECOND: u64 = 1 << 20;

/// The place of the shards.
#[derive(Debug)]
pub struct Output {
    place: String,
    /// The first part of the names of new shards.
    name: String,
    home: Home,
    stores: StoreOptions,
}

#[derive(Debug)]
enum Home {
    Folder {
        path: PathBuf,
        /// The folder, locked while this process packs into it. The system releases the lock when the process ends.
        lock: Option<File>,
    },
    Store(Box<Store>),
}

impl Output {
    /// Opens a place, which need not exist: a folder, or a URL `s3://`, `gs://` or `az://`. Writes nothing.
    ///
    /// # Errors
    /// If the text is no place, or would name a file or a pattern of files where it is read.
    pub fn open(place: &str, stores: &StoreOptions) -> Result<Self, Error> {
        let last = place.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let special = if place.contains("://") { place } else { last };
        if names_a_file(last) || special.contains(['*', '?', '[', '{']) {
            let reason = "it would be read as a file or as a pattern of files; give a name without the ending of a file \
                          such as .tar, and without *, ?, [ and {";
            return Err(refused(place, reason));
        }
        let home = match Location::parse(place)? {
            Location::Folder(path) => {
                if path.exists() && !path.is_dir() {
                    return Err(refused(place, "it is a file; give a folder for the shards"));
                }
                Home::Folder { path, lock: None }
            }
            location => Home::Store(Box::new(Store::open(&location, stores)?)),
        };
        Ok(Self { place: place.to_owned(), name: name_of(place), home, stores: stores.clone() })
    }

    /// Returns the place as it was given.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    pub(crate) fn stores(&self) -> &StoreOptions {
        &self.stores
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path or URL of a file for messages.
    pub(crate) fn shown(&self, name: &str) -> String {
        match &self.home {
            Home::Folder { path, .. } => path.join(name).display().to_string(),
            Home::Store(store) => store.url(name),
        }
    }

    /// Returns the error about this place.
    pub(crate) fn refused(&self, reason: impl Into<String>) -> Error {
        refused(&self.place, reason)
    }

    /// Returns the files of the place that are not of this package's own, with their lengths, sorted by name. A folder has
    /// the length 0.
    pub(crate) fn files(&self) -> Result<Vec<(String, u64)>, Error> {
        match &self.home {
            Home::Folder { path, .. } if !path.exists() => Ok(Vec::new()),
            Home::Folder { path, .. } => {
                let fail = |error: std::io::Error| Error::of_file(path, &error);
                let mut files = Vec::new();
                for entry in std::fs::read_dir(path).map_err(fail)? {
                    let entry = entry.map_err(fail)?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if name != OWN_FOLDER && name != ASIDE {
                        let meta = entry.metadata().map_err(fail)?;
                        files.push((name, if meta.is_file() { meta.len() } else { 0 }));
                    }
                }
                files.sort();
                Ok(files)
            }
            Home::Store(store) => {
                let files = store.list_files("")?.into_iter();
                Ok(files.filter(|(name, _)| !name.starts_with(&format!("{OWN_FOLDER}/"))).collect())
            }
        }
    }

    /// Returns the state of a packing that has begun here.
    pub(crate) fn read_state(&self) -> Result<Option<Vec<u8>>, Error> {
        match &self.home {
            Home::Folder { path, .. } => {
                let path = path.join(STATE);
                match read_regular(&path, MAX_STATE_BYTES) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    // It is no file of a packing.
                    Err(error) if error.kind() == ErrorKind::Other => {
                        Err(refused(&path.display().to_string(), format!("{error}; remove it")))
                    }
                    Err(error) => Err(Error::of_file(&path, &error)),
                }
            }
            Home::Store(store) => Ok(store.wait(store.get(STATE))?.map(Into::into)),
        }
    }

    pub(crate) fn write_state(&self, bytes: Vec<u8>) -> Result<(), Error> {
        match &self.home {
            Home::Folder { path, .. } => {
                let path = path.join(STATE);
                write_file(&path, &bytes).map_err(|error| Error::of_file(&path, &error))
            }
            Home::Store(store) => Ok(store.wait(store.put(STATE, bytes))?),
        }
    }

    /// Makes the folder and locks it, and removes what a process that was killed has left half-written.
    ///
    /// # Errors
    /// If another process packs into the folder, or it cannot be written.
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        match &mut self.home {
            Home::Folder { path, lock } => {
                let fail = |error: std::io::Error| Error::of_file(path, &error);
                std::fs::create_dir_all(&*path).map_err(fail)?;
                let folder = File::open(&*path).map_err(fail)?;
                // Some network file systems have no locks. They are worked on without.
                if flock(&folder, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
                    return Err(refused(&self.place, "another process packs into it; wait until it has ended"));
                }
                *lock = Some(folder);
                match std::fs::remove_file(path.join(ASIDE)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fail(error)),
                    _ => Ok(()),
                }
            }
            Home::Store(store) => {
                store.wait(store.abort_unfinished_uploads(|path| path.ends_with(".tar")))?;
                Ok(())
            }
        }
    }

    /// Removes a shard that is not whole. Failing to is no error, because the next packing removes it too.
    pub(crate) fn remove_aside(&self) {
        if let Home::Folder { path, .. } = &self.home {
            let _ = std::fs::remove_file(path.join(ASIDE));
        }
    }

    /// Returns an empty file for a shard. For a store, it has no name and vanishes with the process.
    pub(crate) fn new_shard(&self) -> Result<File, Error> {
        match &self.home {
            Home::Folder { path, .. } => {
                let path = path.join(ASIDE);
                create_anew(&path).map_err(|error| Error::of_file(&path, &error))
            }
            Home::Store(_) => tempfile::tempfile().map_err(|error| Error::of_file(&std::env::temp_dir(), &error)),
        }
    }

    /// Gives a whole shard its name.
    pub(crate) fn publish(&self, shard: &Finished, name: &str) -> Result<(), Error> {
        match &self.home {
            Home::Folder { path, lock } => {
                let target = path.join(name);
                let fail = |error: std::io::Error| Error::of_file(&target, &error);
                shard.file.sync_all().map_err(fail)?;
                std::fs::rename(path.join(ASIDE), &target).map_err(fail)?;
                lock.as_ref().map_or(Ok(()), File::sync_all).map_err(fail)
            }
            Home::Store(store) => {
                let read = |offset: u64| {
                    let mut piece = vec![0; PIECE.min(shard.length - offset) as usize];
                    let read = shard.file.read_exact_at(&mut piece, offset);
                    read.map(|()| Bytes::from(piece)).map_err(|error| Error::of_file(&std::env::temp_dir(), &error))
                };
                let pieces = || futures::stream::iter((0..shard.length).step_by(PIECE as usize).map(read));
                let patience = store.options().patience + Duration::from_secs(shard.length / MIN_BYTES_PER_SECOND);
                let (deadline, signal) = (Instant::now() + patience, never());
                let (length, sha256) =
                    store.wait(upload_stream(store, name, shard.length, pieces, deadline, &signal))?;
                if (length, &sha256) == (shard.length, &shard.sha256) {
                    return Ok(());
                }
                Err(Error::Bug(format!("{}: other bytes were sent than were written", self.shown(name))))
            }
        }
    }

    /// Returns the SHA-256 of a file; `None` if it is not there.
    pub(crate) fn sha256(&self, name: &str, length: u64) -> Result<Option<String>, Error> {
        match &self.home {
            Home::Folder { path, .. } => {
                let path = path.join(name);
                let fail = |error: std::io::Error| Error::of_file(&path, &error);
                let mut digest = Sha256::new();
                let mut file = match open_regular(&path, File::options().read(true)) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    file => file.map_err(fail)?,
                };
                std::io::copy(&mut file, &mut digest).map_err(fail)?;
                Ok(Some(hex(digest.finalize())))
            }
            Home::Store(store) => Ok(store.wait(store.read(name, length, None))?),
        }
    }
}

fn refused(place: &str, reason: impl Into<String>) -> Error {
    Error::Place { place: place.to_owned(), reason: reason.into() }
}

/// Returns the first part of the names of shards at a place: the last part of its path, with characters that have no
/// meaning in patterns of names.
fn name_of(place: &str) -> String {
    let path = place.split_once("://").map_or(place, |(_, path)| path);
    let last = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = |character: char| {
        if character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-') { character } else { '-' }
    };
    let name: String = last.trim_start_matches('.').chars().map(plain).collect();
    if name.is_empty() { "images".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_named_after_their_place() {
        for (place, name) in [
            ("packed/imagenet64", "imagenet64"),
            ("s3://bucket/some/cats/", "cats"),
            ("s3://bucket", "bucket"),
            (".hidden", "hidden"),
            ("a/{x}* y", "-x---y"),
            ("..", "images"),
            ("/", "images"),
        ] {
            assert_eq!(name_of(place), name, "{place}");
        }
    }
}
