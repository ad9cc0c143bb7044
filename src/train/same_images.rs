//! Compares the images that the ranks read.

use admiral_comm::Collective;
use admiral_data::{ImageSource, Sources, list_names};
use admiral_storage::hex;

use super::error::TrainError;

/// Checks that all ranks number the same images in the same way: with other images, or classes in another order, they would
/// train on something that nobody asked for. Every rank calls it.
///
/// # Errors
/// When a rank has other images than rank 0, with the same error on every rank. When the ranks cannot reach each other.
pub(super) fn check_same_images(sources: &Sources, collective: &dyn Collective) -> Result<(), TrainError> {
    let facts: Vec<Vec<u8>> = collective.all_gather(facts(sources).as_bytes())?;
    let Some(rank) = facts.iter().position(|other| *other != facts[0]) else { return Ok(()) };
    // The digests say nothing to people.
    let words = |facts: &[u8]| String::from_utf8_lossy(facts).lines().next().unwrap_or_default().to_owned();
    Err(TrainError::Refused(format!(
        "rank {rank} reads other images than rank 0: {}, and rank 0 {}, with other names or classes; give every host the \
         same files in data.path and data.validation_path",
        words(&facts[rank]),
        words(&facts[0]),
    )))
}

/// Logs how many images and classes there are.
pub(super) fn log_images(sources: &Sources) {
    tracing::info!("images: {}", describe(sources));
    let names = sources.train.class_names();
    if !names.is_empty() {
        tracing::info!("classes, from 0: {}", list_names(names));
    }
}

fn describe(sources: &Sources) -> String {
    let one = |source: &dyn ImageSource| format!("{} in {} classes", source.num_images(), source.num_classes());
    let validation = sources.validation.as_ref().map(|source| format!(", for validation {}", one(&**source)));
    one(&*sources.train) + &validation.unwrap_or_default()
}

/// Returns what all ranks must share: a line for people, and digests.
fn facts(sources: &Sources) -> String {
    let digest = |source: &dyn ImageSource| hex(source.digest());
    let validation = sources.validation.as_ref().map(|source| digest(&**source)).unwrap_or_default();
    format!("{}\n{} {validation}", describe(sources), digest(&*sources.train))
}
