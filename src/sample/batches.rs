//! Batches of images that ranks share. A batch is determined by the index of its first image.

use std::cell::Cell;
use std::fmt::Display;
use std::ops::Range;

use admiral_comm::{Collective, CollectiveError, Ending, ExitCode, agree};

use super::error::Error;

/// Computes something for each batch of `count` images, with a share of the batches on each rank. Every rank must call this
/// function. Rank 0 passes the result of each batch to `consume`, in the order of the batches, so it holds at most one result
/// of each rank.
///
/// `compute` is called in every round on every rank, also on one without a batch: with no images.
pub fn gather_batches<E: From<CollectiveError>>(
    count: u64,
    batch_size: u64,
    collective: &dyn Collective,
    mut compute: impl FnMut(Range<u64>) -> Result<Vec<u8>, E>,
    mut consume: impl FnMut(Range<u64>, Vec<u8>),
) -> Result<(), E> {
    let (rank, world_size) = (collective.rank() as u64, collective.world_size() as u64);
    let images_of = |batch: u64| (batch * batch_size).min(count)..((batch + 1) * batch_size).min(count);
    for round in 0..count.div_ceil(batch_size).div_ceil(world_size) {
        let own = compute(images_of(round * world_size + rank))?;
        let Some(all) = collective.gather(0, &own)? else { continue };
        for (rank, result) in all.into_iter().enumerate() {
            let images = images_of(round * world_size + rank as u64);
            if !images.is_empty() {
                consume(images, result);
            }
        }
    }
    Ok(())
}

/// Computes bytes for each batch of `count` images, with a share of the batches on each rank, and passes them to `consume` on
/// rank 0 in the order of the batches. Every rank must call this function.
///
/// # Errors
/// The first error of `compute` or `consume`, the same on every rank, or if the ranks cannot reach each other.
pub fn gather_agreed(
    count: u64,
    batch_size: u64,
    collective: &dyn Collective,
    mut compute: impl FnMut(Range<u64>) -> Result<Vec<u8>, Error>,
    mut consume: impl FnMut(Range<u64>, Vec<u8>) -> Result<(), Error>,
) -> Result<(), Ending> {
    // The ranks agree on what rank 0 consumed at the start of the next round.
    let consumed = Cell::new(Ok(()));
    let compute_agreed = |images: Range<u64>| {
        let own = consumed.replace(Ok(())).and_then(|()| match images.is_empty() {
            true => Ok(Vec::new()),
            false => compute(images),
        });
        agree(collective, own, Error::exit_code)
    };
    gather_batches(count, batch_size, collective, compute_agreed, |images, bytes| {
        let before = consumed.replace(Ok(()));
        consumed.set(before.and_then(|()| consume(images, bytes)));
    })?;
    agree(collective, consumed.into_inner(), Error::exit_code)
}

/// Returns the numbers that rank 0 finds, on every rank.
///
/// # Errors
/// Those of `find`, the same on every rank, or when the ranks cannot reach each other.
pub fn numbers_from_root<E: Display>(
    collective: &dyn Collective,
    find: impl FnOnce() -> Result<Vec<u64>, E>,
    code: fn(&E) -> ExitCode,
) -> Result<Vec<u64>, Ending> {
    let found = if collective.rank() == 0 { find() } else { Ok(Vec::new()) };
    let found = agree(collective, found, code)?;
    let mut bytes: Vec<u8> = found.iter().flat_map(|number| number.to_le_bytes()).collect();
    collective.broadcast(0, &mut bytes)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|&number| u64::from_le_bytes(number)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_comm::Single;

    use super::*;

    #[test]
    fn batches_come_in_order_and_the_last_ends_with_the_images() {
        let mut seen = Vec::new();
        let compute = |images: Range<u64>| Ok(vec![images.start as u8, images.end as u8]);
        let consume = |images: Range<u64>, bytes| {
            seen.push((images, bytes));
            Ok(())
        };
        gather_agreed(7, 3, &Single, compute, consume).unwrap();
        assert_eq!(seen, [(0..3, vec![0, 3]), (3..6, vec![3, 6]), (6..7, vec![6, 7])]);
    }

    #[test]
    fn an_error_ends_the_rounds() {
        let refused = || Err(Error::Refused("no".into()));
        let mut computed = 0;
        let compute = |_| {
            computed += 1;
            Ok(Vec::new())
        };
        assert!(gather_agreed(7, 3, &Single, compute, |_, _| refused()).is_err());
        assert_eq!(computed, 1);
        assert!(gather_agreed(3, 3, &Single, |_| Ok(Vec::new()), |_, _| refused()).is_err());
    }
}
