//! Makes the index of a container: reads its files once, in several threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::blob::Blob;
use crate::error::Error;
use crate::index::{InFile, Index, Label, Shard};
use crate::kind::Kind;
use crate::names::shown;
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
    let mut all = found.map_while(|found| found).collect::<Result<Vec<_>, _>>()?;
    let class_names = class_names(&mut all, blobs)?;
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
    match class_names {
        Some(names) => index.with_class_names(names, &place.text),
        None => Ok(index),
    }
}

/// Returns the names of the classes in the order of their numbers, if the files have them. If the lists of two files differ,
/// the images of all files get the numbers of the names in the order of their bytes.
fn class_names(all: &mut [InFile], blobs: &[Arc<Blob>]) -> Result<Option<Vec<Vec<u8>>>, Error> {
    let mut lists = all.iter().filter_map(|of_file| of_file.class_names.as_ref());
    let Some(first) = lists.next().cloned() else { return Ok(None) };
    if lists.all(|list| *list == first) {
        return Ok(Some(first));
    }
    let lists = all.iter().filter_map(|of_file| of_file.class_names.as_ref());
    let mut numbers: BTreeMap<Vec<u8>, u32> = lists.flatten().map(|name| (name.clone(), 0)).collect();
    numbers.values_mut().zip(0..).for_each(|(number, place)| *number = place);
    for (of_file, blob) in all.iter_mut().zip(blobs) {
        let Some(names) = &of_file.class_names else {
            let reason = "it lists no classes, and those of the other files differ; open it alone";
            return Err(Error::malformed(blob.shown(), reason));
        };
        for found in &mut of_file.found {
            let Some(Label::Number(number)) = &mut found.label else { continue };
            let renumbered = names.get(*number as usize).and_then(|name| numbers.get(name));
            *number = *renumbered.ok_or_else(|| {
                let reason = format!("it has the label {number}, and there are {} classes", names.len());
                Error::malformed(format!("{}, image {}", blob.shown(), shown(&found.name)), reason)
            })?;
        }
    }
    Ok(Some(numbers.into_keys().collect()))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_storage::StoreOptions;

    use super::*;
    use crate::index::Labels;

    /// Makes the index of tar files of one image each, from the members `.json` of these.
    fn index_of(descriptions: &[&str]) -> Result<Index, Error> {
        let folder = tempfile::tempdir().unwrap();
        let write = |(number, json): (usize, &&str)| {
            let path = folder.path().join(format!("{number}.tar"));
            let mut builder = ::tar::Builder::new(std::fs::File::create(&path).unwrap());
            for (ending, content) in [("png", "x"), ("json", *json)] {
                let mut header = ::tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, format!("{number}.{ending}"), content.as_bytes()).unwrap();
            }
            builder.into_inner().unwrap();
            Arc::new(Blob::local(format!("{number}.tar"), path, false).unwrap())
        };
        let blobs: Vec<Arc<Blob>> = descriptions.iter().enumerate().map(write).collect();
        let place = Place::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        make(&place, Kind::Tar, &blobs, 1)
    }

    #[test]
    fn classes_of_files_with_different_lists_are_those_of_the_same_name() {
        let one = r#"{"packed_from": "a", "label": 0, "class_names": ["dog", "cat"]}"#;
        let other = r#"{"packed_from": "b", "label": 1, "class_names": ["ant", "dog"]}"#;
        let names = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(*index_of(&[one, one]).unwrap().labels(), Labels::Names(vec![0, 0], names(&["dog", "cat"])));
        let expected = Labels::Names(vec![2, 2], names(&["ant", "cat", "dog"]));
        assert_eq!(*index_of(&[one, other]).unwrap().labels(), expected);
        let wrong = other.replace("\"label\": 1", "\"label\": 2");
        let error = index_of(&[one, &wrong]).unwrap_err().to_string();
        assert!(error.contains("1.tar, image b: it has the label 2") && error.contains("2 classes"), "{error}");
        let error = index_of(&[one, other, r#"{"packed_from": "c", "label": 1}"#]).unwrap_err().to_string();
        assert!(error.contains("2.tar: it lists no classes"), "{error}");
    }

    #[test]
    fn the_largest_number_of_classes_counts() {
        let with = |num: u32| format!(r#"{{"packed_from": "a", "label": 0, "num_classes": {num}}}"#);
        assert_eq!(index_of(&[&with(3), &with(5)]).unwrap().num_classes(), Some(5));
        let error = index_of(&[r#"{"packed_from": "a", "label": 0, "num_classes": -1}"#]).unwrap_err().to_string();
        assert!(error.contains("no number of classes"), "{error}");
    }
}
