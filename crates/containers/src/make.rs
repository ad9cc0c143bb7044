//! Makes the index of a container: reads its files once, in several threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::blob::Blob;
use crate::error::Error;
use crate::index::{InFile, Index, Shard};
use crate::kind::Kind;
use crate::place::Place;
use crate::{dali, lmdb, npz, parquet, tar, zip};

/// The time between two messages about the making of an index.
const MESSAGE_EVERY: Duration = Duration::from_secs(30);

/// What was found in a file.
type OfFile = Result<InFile, Error>;

/// Makes the index of a container. Several threads read its files.
pub(crate) fn make(place: &Place, kind: Kind, blobs: &[Arc<Blob>], threads: usize) -> Result<Index, Error> {
    let bytes: u64 = blobs.iter().map(|blob| blob.length).sum();
    tracing::info!("reading {} once for its index: {} files, {bytes} bytes", place.text, blobs.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let nothing: Vec<Option<OfFile>> = (0..blobs.len()).map(|_| None).collect();
    let found = Mutex::new(nothing);
    let last_message = Mutex::new(Instant::now());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            // The first file that is wrong is reported, whatever the order in which threads end.
            let Some(blob) = blobs.get(number).filter(|_| number < failed.load(Ordering::Relaxed)) else { return };
            let of_blob = find(kind, blob);
            if of_blob.is_err() {
                failed.fetch_min(number, Ordering::Relaxed);
            }
            found.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(of_blob);
            let mut last = last_message.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= MESSAGE_EVERY {
                *last = Instant::now();
                tracing::info!("index of {}: {} of {} files", place.text, number + 1, blobs.len());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, blobs.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter();
    let all = found.map_while(|found| found).collect::<Result<Vec<_>, _>>()?;
    let mut class_names = None;
    for (blob, InFile { class_names: names, .. }) in blobs.iter().zip(&all) {
        if names.is_some() && *class_names.get_or_insert_with(|| names.clone()) != *names {
            let reason = "its classes are others than those of the files before it; open them one by one";
            return Err(Error::malformed(blob.shown(), reason));
        }
    }
    let num_classes = all.iter().filter_map(|of_file| of_file.num_classes).max();
    let mut doubts = blobs.iter().zip(&all).filter_map(|(blob, of_file)| Some((blob, of_file.doubt.as_ref()?)));
    if let Some((blob, doubt)) = doubts.next() {
        let others = doubts.count();
        let others = if others == 0 { String::new() } else { format!(" {others} other files may be, too.") };
        tracing::warn!(
            "{}: {doubt}. It may be cut off between two members: compare its length with the original.{others} All \
             images that are there are used",
            blob.shown()
        );
    }
    let found = all.into_iter().map(|of_file| of_file.found).collect();
    let index = Index { num_classes, ..Index::new(kind, shards(blobs), found, &place.text)? };
    match class_names.flatten() {
        Some(names) => index.with_class_names(names, &place.text),
        None => Ok(index),
    }
}

fn find(kind: Kind, blob: &Arc<Blob>) -> OfFile {
    match kind {
        Kind::Tar => {
            let of_file = tar::find(blob)?;
            if let Some(index) = &blob.dali_index {
                dali::check(index, blob, &of_file.found)?;
            }
            Ok(of_file)
        }
        Kind::Zip => zip::find(blob).map(InFile::from),
        Kind::Npz => npz::find(blob).map(InFile::from),
        Kind::Lmdb => lmdb::find(blob).map(InFile::from),
        Kind::Parquet => parquet::find(blob),
        Kind::Tree => Err(Error::malformed(blob.shown(), "it is no folder")),
    }
}

/// Returns what an index says of its files.
pub(crate) fn shards(blobs: &[Arc<Blob>]) -> Vec<Shard> {
    let shard =
        |blob: &Arc<Blob>| Shard { name: blob.name.clone(), length: blob.length, version: blob.version.clone() };
    blobs.iter().map(shard).collect()
}
