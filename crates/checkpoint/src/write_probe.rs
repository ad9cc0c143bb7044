//! Checks before the first step whether a run's checkpoints can be written to a store, instead of at the first save.

use std::time::{Duration, Instant};

use admiral_comm::Collective;
use admiral_storage::{Location, Store, never, upload};
use bytes::Bytes;

use crate::attempt::random_id;
use crate::error::Error;
use crate::retention::Retention;
use crate::{agree, layout};

/// The largest probe file of a rank, in bytes. Enough to distinguish a fast store from a slow one.
const MAX_RANK_PROBE_BYTES: u64 = 16 << 20;
/// The size of the probe file of a single process, in bytes.
const SINGLE_PROBE_BYTES: u64 = 64 << 10;

/// The number of the file by which the creation of files is tested. Ranks have lower numbers.
const NEW_FILE: usize = 99_999;

/// The result of a write probe. The same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteProbe {
    /// The time that a save is likely to take, estimated from the slowest rank.
    pub save: Duration,
    /// A warning for the user if the disk is likely to be full before the run ends.
    pub warning: Option<String>,
}

/// The checkpoints that a run is going to write.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The ID of the attempt. It is in the names of the probe files, so that two runs in the same store do not delete each
    /// other's files.
    pub attempt_id: &'a str,
    /// The size of this rank's share of a checkpoint, in bytes.
    pub share_bytes: u64,
    /// The size of a whole checkpoint, in bytes.
    pub checkpoint_bytes: u64,
    /// The number of checkpoints that the run is going to write.
    pub num_saves: u64,
    /// Which of them are kept.
    pub retention: &'a Retention,
}

/// Writes a probe file on every rank, reads it back and deletes it. Rank 0 checks that it sees the files of all ranks, which
/// fails if the nodes do not share the folder. It also checks that the disk of a folder has space for a checkpoint. Every
/// rank must call this, and gets the same result.
///
/// # Errors
/// [`Error::Store`] with the URL and the operation, the same on every rank.
pub fn write_probe(store: &Store, expected: Expected, collective: &dyn Collective) -> Result<WriteProbe, Error> {
    let file = |rank: usize| layout::probe_file(expected.attempt_id, rank);
    let own = file(collective.rank());
    let length = expected.share_bytes.clamp(1, MAX_RANK_PROBE_BYTES);
    let timed = store.wait(write_and_read(store, &own, length));
    let times = agree::all(collective, timed);
    let seen = (collective.rank() == 0).then(|| {
        store.wait(sees_all(store, &(0..collective.world_size()).map(file).collect::<Vec<_>>()))?;
        check_space(store, &expected)
    });
    let seen = agree::of_root(collective, 0, seen);
    // Deletes the file even if something failed.
    let deleted = agree::all(collective, store.wait(store.delete(&own)).map_err(Error::from));
    let times: Vec<(f64, u64)> = times?;
    let warning = seen?;
    deleted?;
    // Scales the time of each rank to the size of its share.
    let shares = agree::all(collective, Ok(expected.share_bytes))?;
    let seconds = times.iter().zip(shares).map(|(&(seconds, length), share)| seconds * share as f64 / length as f64);
    Ok(WriteProbe { save: Duration::from_secs_f64(seconds.fold(0.0, f64::max)), warning })
}

/// Checks from a single process whether checkpoints can be written to the store: writes a small file, lists it, reads it
/// back and deletes it. Returns the time it took.
///
/// # Errors
/// [`Error::Store`] with the URL and the operation; [`Error::Url`] if checkpoints are not safe there.
pub fn probe_from_one_process(store: &Store) -> Result<Duration, Error> {
    let id = random_id()?;
    let file = layout::probe_file(&id, 0);
    let start = Instant::now();
    store.wait(async {
        let tried = async {
            write_and_read(store, &file, SINGLE_PROBE_BYTES).await?;
            if !store.files_right_under("").await?.contains(&file) {
                let cause = "the file that was just written is not listed".into();
                return Err(Error::Store { operation: "list".into(), url: store.url(&file), cause });
            }
            check_new_files(store, &id).await
        };
        let tried = tried.await;
        // Deletes the file even if something failed.
        let deleted = store.delete(&file).await.map_err(Error::from);
        tried.and(deleted)
    })?;
    Ok(start.elapsed())
}

/// Checks that the store does not create a file that exists. The lease and the publication of a checkpoint depend on it:
/// otherwise two runs could write to the same store without noticing each other. `id` is in the name of the file.
///
/// # Errors
/// [`Error::Url`] if it does; [`Error::Store`].
pub(crate) async fn check_new_files(store: &Store, id: &str) -> Result<(), Error> {
    let file = layout::probe_file(id, NEW_FILE);
    let checked = store.checks_new_files(&file).await;
    let deleted = store.delete(&file).await;
    if checked? {
        return Ok(deleted?);
    }
    Err(Error::Url {
        url: store.url(""),
        reason: "the server ignores If-None-Match and overwrites files, so that two runs could overwrite each other's \
                checkpoints; use a newer version of the server or another one, or set checkpoint.url to a folder"
            .into(),
    })
}

/// Writes a file of `length` bytes and reads it back. Returns the seconds that writing took, and the length.
async fn write_and_read(store: &Store, file: &str, length: u64) -> Result<(f64, u64), Error> {
    // Pseudorandom, so that disks and networks cannot compress it.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    let start = Instant::now();
    let (_, sha256) = upload(store, file, &[Bytes::from(bytes)], start + store.options().patience, &never()).await?;
    let seconds = start.elapsed().as_secs_f64();
    let back = store.read(file, length, None).await?;
    if back.as_deref() == Some(sha256.as_str()) {
        return Ok((seconds, length));
    }
    let cause = "the file that was just written reads back differently".into();
    Err(Error::Store { operation: "read".into(), url: store.url(file), cause })
}

/// Checks that all probe files are listed.
async fn sees_all(store: &Store, files: &[String]) -> Result<(), Error> {
    let listed = store.files_right_under("").await?;
    match files.iter().find(|file| !listed.contains(file)) {
        None => Ok(()),
        Some(file) => Err(Error::Store {
            operation: "see".into(),
            url: store.url(file),
            cause: "another rank wrote it and rank 0 does not find it; all ranks must share this store".into(),
        }),
    }
}

/// Checks whether the disk of a folder has space for the checkpoints of the run. Returns a warning if it has space for only
/// some of them.
///
/// # Errors
/// [`Error::Store`] if not even one fits.
fn check_space(store: &Store, expected: &Expected) -> Result<Option<String>, Error> {
    let Some(Location::Folder(folder)) = store.location() else { return Ok(None) };
    let free = rustix::fs::statvfs(folder).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let free = free.map_err(|error| Error::Store {
        operation: "get the free space of".into(),
        url: store.url(""),
        cause: error.to_string(),
    })?;
    judge_space(free, expected).map_err(|cause| Error::Store {
        operation: "keep checkpoints in".into(),
        url: store.url(""),
        cause,
    })
}

/// Compares `free` bytes with the checkpoints of the run. Returns a warning if only some of them fit, and an error if not
/// even one fits.
fn judge_space(free: u64, expected: &Expected) -> Result<Option<String>, String> {
    let gigabytes = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
    let (one, all_saves) = (expected.checkpoint_bytes, expected.num_saves);
    if free < one {
        return Err(format!(
            "a checkpoint of this network has {} and the disk has {} free; free some, or set checkpoint.url to another \
             location",
            gigabytes(one),
            gigabytes(free)
        ));
    }
    // Older ones are deleted only after the newest is published.
    let kept = expected.retention.keep_last.map_or(all_saves, |keep| {
        all_saves.min(keep.saturating_add(1).saturating_add(expected.retention.most_for_evaluation()))
    });
    let needed = one.saturating_mul(kept);
    Ok((free < needed).then(|| {
        format!(
            "the disk has {} free, which {} of the {kept} checkpoints still to be written, of {} each, will fill; free some, or set \
             checkpoint.keep_last to keep fewer",
            gigabytes(free),
            free / one.max(1),
            gigabytes(one)
        )
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_comm::Single;

    use super::*;
    use crate::testing::memory;

    fn expected(retention: &Retention) -> Expected<'_> {
        Expected {
            attempt_id: "0123456789abcdef",
            share_bytes: 1 << 20,
            checkpoint_bytes: 1 << 20,
            num_saves: 10,
            retention,
        }
    }

    #[test]
    fn a_write_probe_deletes_its_file() {
        let store = memory();
        let retention = Retention::default();
        let probe = write_probe(&store, expected(&retention), &Single).unwrap();
        assert!(probe.save > Duration::ZERO && probe.warning.is_none());
        assert!(store.wait(store.files("")).unwrap().is_empty());
    }

    #[test]
    fn a_probe_from_one_process_deletes_its_file() {
        let store = memory();
        assert!(probe_from_one_process(&store).unwrap() > Duration::ZERO);
        assert!(store.wait(store.files("")).unwrap().is_empty());
    }

    #[test]
    fn a_full_disk_is_an_error_and_a_small_one_a_warning() {
        let all = Retention::default();
        assert!(judge_space((1 << 20) - 1, &expected(&all)).unwrap_err().contains("0.00 GB free"));
        assert!(judge_space(9 << 20, &expected(&all)).unwrap().unwrap().contains("9 of the 10"));
        assert_eq!(judge_space(10 << 20, &expected(&all)), Ok(None));
        let few = Retention { keep_last: Some(2), ..Retention::default() };
        assert_eq!(judge_space(3 << 20, &expected(&few)), Ok(None));
        assert!(judge_space(2 << 20, &expected(&few)).unwrap().is_some());
        let best = Retention { keep_best: 1, ..few };
        assert_eq!(judge_space(5 << 20, &expected(&best)), Ok(None));
        assert!(judge_space(4 << 20, &expected(&best)).unwrap().is_some());
    }
}
