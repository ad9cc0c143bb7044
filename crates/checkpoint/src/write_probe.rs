//! Whether a place can take a run's checkpoints, asked before the first step instead of at the first save.

use std::time::{Duration, Instant};

use bytes::Bytes;

use admiral_comm::Collective;
use admiral_storage::{Location, Store, never, upload};

use crate::agree;
use crate::error::Error;
use crate::retention::Retention;

/// The most bytes that a rank writes for a trial: enough to tell a fast store from a slow one.
const LARGEST_PROBE_BYTES: u64 = 16 << 20;
/// What a probe writes.
const PROBE_BYTES: u64 = 64 << 10;

/// What a trial has found out. The same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteProbe {
    /// The time that a save is likely to take, by the slowest rank's trial.
    pub save: Duration,
    /// What the user should know: the place is likely to be full before the run ends.
    pub warning: Option<String>,
}

/// What a run is going to write.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Names the attempt: two runs that share the place must not delete each other's trials.
    pub attempt_id: &'a str,
    /// The bytes of this rank's share of a checkpoint.
    pub share_bytes: u64,
    /// The bytes of a whole checkpoint.
    pub checkpoint_bytes: u64,
    /// Checkpoints that the run is still to write.
    pub num_saves: u64,
    /// Which of them are kept.
    pub retention: &'a Retention,
}

/// Every rank writes a trial file, reads it back and deletes it, and rank 0 looks for those of all ranks: on a folder
/// that the nodes do not share it finds only its own. It also looks whether a folder's disk has room for a checkpoint.
/// Every rank calls this and gets the same answer.
///
/// # Errors
/// The same on every rank: [`Error::Store`] with the address and what was tried.
pub fn write_probe(store: &Store, expected: Expected, collective: &dyn Collective) -> Result<WriteProbe, Error> {
    let file = |rank: usize| format!("trial-{}-{rank:05}", expected.attempt_id);
    let own = file(collective.rank());
    let length = expected.share_bytes.clamp(1, LARGEST_PROBE_BYTES);
    let timed = store.wait(write_and_read(store, &own, length));
    let times = agree::all(collective, timed);
    let seen = (collective.rank() == 0).then(|| {
        store.wait(sees_all(store, &(0..collective.world_size()).map(file).collect::<Vec<_>>()))?;
        room(store, &expected)
    });
    let seen = agree::of_root(collective, 0, seen);
    // Also where something failed: what could be written is taken back.
    let deleted = agree::all(collective, store.wait(store.delete(&own)).map_err(Error::from));
    let times: Vec<(f64, u64)> = times?;
    let warning = seen?;
    deleted?;
    // The smallest of files takes a while, whatever the bandwidth.
    let shares = agree::all(collective, Ok(expected.share_bytes))?;
    let seconds = times.iter().zip(shares).map(|(&(seconds, length), share)| seconds * share as f64 / length as f64);
    Ok(WriteProbe { save: Duration::from_secs_f64(seconds.fold(0.0, f64::max)), warning })
}

/// One process writes a small file, lists it, reads it back and deletes it: whether checkpoints can be written from
/// here. `host` goes into the file's name, `number` tells it from those of other processes. Returns what that took.
///
/// # Errors
/// [`Error::Store`] with the address and what was tried.
pub fn probe_from_one_process(store: &Store, host: &str, number: u32) -> Result<Duration, Error> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
    let host: String = host.chars().filter(|&letter| is_plain(letter)).collect();
    // A trial's name: what a probe leaves when it is killed is recognised.
    let file = format!("trial-probe-{host}-{number:010}");
    let start = Instant::now();
    store.wait(async {
        let tried = async {
            write_and_read(store, &file, PROBE_BYTES).await?;
            if store.files_right_under("").await?.contains(&file) {
                return Ok(());
            }
            let cause = "what was just written is not listed".into();
            Err(Error::Store { operation: "list".into(), url: store.url(&file), cause })
        };
        let tried = tried.await;
        // Also where something failed: what could be written is taken back.
        let deleted = store.delete(&file).await.map_err(Error::from);
        tried.and(deleted)
    })?;
    Ok(start.elapsed())
}

/// The seconds that writing took, and the bytes.
async fn write_and_read(store: &Store, file: &str, length: u64) -> Result<(f64, u64), Error> {
    // Of no pattern that a disk or a network could shorten.
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
    let cause = "what was just written does not come back".into();
    Err(Error::Store { operation: "read".into(), url: store.url(file), cause })
}

async fn sees_all(store: &Store, files: &[String]) -> Result<(), Error> {
    let listed = store.files_right_under("").await?;
    match files.iter().find(|file| !listed.contains(file)) {
        None => Ok(()),
        Some(file) => Err(Error::Store {
            operation: "see".into(),
            url: store.url(file),
            cause: "another rank wrote it and rank 0 does not find it; all ranks must share this place".into(),
        }),
    }
}

/// What to warn of where a folder's disk has room for some of the run's checkpoints.
fn room(store: &Store, expected: &Expected) -> Result<Option<String>, Error> {
    let Some(Location::Folder(folder)) = store.location() else { return Ok(None) };
    let free = rustix::fs::statvfs(folder).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let free = free.map_err(|error| Error::Store {
        operation: "ask for the free room of".into(),
        url: store.url(""),
        cause: error.to_string(),
    })?;
    judge_room(free, expected).map_err(|cause| Error::Store {
        operation: "keep checkpoints in".into(),
        url: store.url(""),
        cause,
    })
}

/// Whether `free` bytes are enough: an error where not one checkpoint fits, a warning where the run's do not.
fn judge_room(free: u64, expected: &Expected) -> Result<Option<String>, String> {
    let gigabytes = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
    let (one, all_saves) = (expected.checkpoint_bytes, expected.num_saves);
    if free < one {
        return Err(format!(
            "a checkpoint of this network has {} and the disk has {} free; free some, or set checkpoint.url to another \
             place",
            gigabytes(one),
            gigabytes(free)
        ));
    }
    // An older one is deleted only when the newest is there.
    let kept = expected.retention.keep_last.map_or(all_saves, |keep| all_saves.min(keep.saturating_add(1)));
    let needed = one.saturating_mul(kept);
    Ok((free < needed).then(|| {
        format!(
            "the disk has {} free, which {} of the {kept} checkpoints to come of {} each will fill; free some, or set \
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
        Expected { attempt_id: "a", share_bytes: 1 << 20, checkpoint_bytes: 1 << 20, num_saves: 10, retention }
    }

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let store = memory();
        let retention = Retention::default();
        let trial = write_probe(&store, expected(&retention), &Single).unwrap();
        assert!(trial.save > Duration::ZERO && trial.warning.is_none());
        assert!(store.wait(store.files("")).unwrap().is_empty());
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let store = memory();
        assert!(probe_from_one_process(&store, "node 1/../x", 7).unwrap() > Duration::ZERO);
        assert!(store.wait(store.files("")).unwrap().is_empty());
    }

    #[test]
    fn a_disk_without_room_is_refused_and_a_small_one_warned_of() {
        let all = Retention::default();
        assert!(judge_room((1 << 20) - 1, &expected(&all)).unwrap_err().contains("0.00 GB free"));
        assert!(judge_room(9 << 20, &expected(&all)).unwrap().unwrap().contains("9 of the 10"));
        assert_eq!(judge_room(10 << 20, &expected(&all)), Ok(None));
        let few = Retention { keep_last: Some(2), ..Retention::default() };
        assert_eq!(judge_room(3 << 20, &expected(&few)), Ok(None));
        assert!(judge_room(2 << 20, &expected(&few)).unwrap().is_some());
    }
}
