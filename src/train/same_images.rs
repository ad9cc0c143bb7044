//! Compares the images that the ranks read.

use std::ops::Range;

use admiral_checkpoint::ImagesRecord;
use admiral_comm::Collective;
use admiral_data::{ImageSource, Sources, digest_of, list_names};
use admiral_storage::hex;
use serde::{Deserialize, Serialize};

use super::error::TrainError;

/// Returns what a checkpoint records of the images for training. It hashes all names and classes, or all pixels of IDX files.
#[must_use]
pub fn images_record(source: &dyn ImageSource) -> ImagesRecord {
    ImagesRecord { num_images: source.num_images(), sha256: hex(source.digest()) }
}

/// What ranks compare of a set of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SetFacts {
    images: ImagesRecord,
    num_classes: usize,
}

impl SetFacts {
    fn of(source: &dyn ImageSource) -> Self {
        Self { images: images_record(source), num_classes: source.num_classes() }
    }

    fn words(&self) -> String {
        words_of(self.images.num_images, self.num_classes)
    }
}

fn words_of(num_images: u64, num_classes: usize) -> String {
    format!("{num_images} in {num_classes} classes")
}

/// What ranks compare: the images for training and those for validation.
type Facts = (SetFacts, Option<SetFacts>);

fn facts(sources: &Sources) -> Facts {
    (SetFacts::of(&*sources.train), sources.validation.as_ref().map(|source| SetFacts::of(&**source)))
}

fn words((train, validation): &Facts) -> String {
    let validation = validation.as_ref().map(|set| format!(", for validation {}", set.words())).unwrap_or_default();
    train.words() + &validation
}

/// Checks that all ranks number the same images in the same way: with other images, or classes in another order, they would
/// train on something that nobody asked for. Returns the record of the images for training. Every rank calls it.
///
/// # Errors
/// When a rank has other images than rank 0, with the same error on every rank. It names the first image that differs. When
/// the ranks cannot reach each other.
pub(super) fn check_same_images(sources: &Sources, collective: &dyn Collective) -> Result<ImagesRecord, TrainError> {
    let bug = |error: serde_json::Error| TrainError::Bug(error.to_string());
    let own = facts(sources);
    let all = collective.all_gather(&serde_json::to_vec(&own).map_err(bug)?)?;
    let all: Vec<Facts> =
        all.iter().map(|bytes| serde_json::from_slice(bytes)).collect::<Result<_, _>>().map_err(bug)?;
    let Some(rank) = all.iter().position(|other| *other != all[0]) else { return Ok(own.0.images) };
    let (here, there) = (&all[0], &all[rank]);
    let difference = if here.0 != there.0 {
        first_difference(
            "training",
            &*sources.train,
            [here.0.images.num_images, there.0.images.num_images],
            rank,
            collective,
        )?
    } else {
        match (&sources.validation, &here.1, &there.1) {
            (Some(source), Some(here), Some(there)) => first_difference(
                "validation",
                &**source,
                [here.images.num_images, there.images.num_images],
                rank,
                collective,
            )?,
            _ => String::new(),
        }
    };
    Err(TrainError::Refused(format!(
        "rank {rank} reads other images than rank 0: {}, and rank 0 {}{difference}; give every host the same files in \
         data.path and data.validation_path",
        words(there),
        words(here),
    )))
}

/// Returns the words about the first image that differs between rank 0, which has `nums[0]` images, and `rank`, which has
/// `nums[1]`. `purpose` tells what the images are for. Every rank calls it.
fn first_difference(
    purpose: &str,
    source: &dyn ImageSource,
    nums: [u64; 2],
    rank: usize,
    collective: &dyn Collective,
) -> Result<String, TrainError> {
    let gather = |own: &[u8]| -> Result<[Vec<u8>; 2], TrainError> {
        let mut all = collective.all_gather(own)?;
        Ok([std::mem::take(&mut all[0]), std::mem::take(&mut all[rank])])
    };
    let is_same = |items: Range<u64>| {
        // Other ranks than these two may have fewer images. Theirs are not compared.
        let items = items.start.min(source.num_images())..items.end.min(source.num_images());
        let [here, there] = gather(&digest_of(items.map(|item| source.entry(item))))?;
        Ok::<_, TrainError>(here == there)
    };
    let Some(item) = find_difference(nums[0].max(nums[1]), is_same)? else { return Ok(String::new()) };
    let entry = if item < source.num_images() { source.entry(item) } else { "no such image".into() };
    let [here, there] = gather(entry.as_bytes())?.map(|entry| String::from_utf8_lossy(&entry).into_owned());
    Ok(format!("; {purpose} image {item} is the first that differs: {there} on rank {rank}, and {here} on rank 0"))
}

/// Returns the first of `num` items that differs, found by halving, or `None` if none does. `is_same` says whether the items
/// of a range are the same.
fn find_difference<E>(num: u64, mut is_same: impl FnMut(Range<u64>) -> Result<bool, E>) -> Result<Option<u64>, E> {
    if is_same(0..num)? {
        return Ok(None);
    }
    let mut range = 0..num;
    // The range holds the first item that differs.
    while range.end - range.start > 1 {
        let middle = range.start + (range.end - range.start) / 2;
        range = if is_same(range.start..middle)? { middle..range.end } else { range.start..middle };
    }
    Ok(Some(range.start))
}

/// Logs how many images and classes there are.
pub(super) fn log_images(sources: &Sources) {
    let of = |source: &dyn ImageSource| words_of(source.num_images(), source.num_classes());
    let validation = sources.validation.as_ref().map(|source| format!(", for validation {}", of(&**source)));
    tracing::info!("images: {}{}", of(&*sources.train), validation.unwrap_or_default());
    let names = sources.train.class_names();
    if !names.is_empty() {
        tracing::info!("classes, from 0: {}", list_names(names));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_item_that_differs_is_found_in_few_comparisons() {
        for num in 1..40_u64 {
            for first in 0..=num {
                let mut calls = 0;
                // Later items differ as well, every second one.
                let differs = |item: u64| item >= first && (item - first).is_multiple_of(2) && item < num;
                let found = find_difference(num, |mut items| {
                    calls += 1;
                    Ok::<_, ()>(!items.any(differs))
                });
                assert_eq!(found, Ok((first < num).then_some(first)), "{num}");
                assert!(calls <= 8, "{calls} comparisons of {num}");
            }
        }
        assert_eq!(find_difference(5, |_| Err::<bool, _>("lost")), Err("lost"));
    }
}
