//! The speed at which a place delivers images.

use std::time::Instant;

use admiral_containers::Fetched;
use admiral_data::{ImageSource, spaced_items};
use serde::Serialize;

use crate::error::Error;
use crate::ordered::in_order;

/// The speed at which a place delivers images to several threads at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fetching {
    /// The median of the seconds until an image is there.
    pub median_seconds: f64,
    /// The seconds that 99 of 100 images do not exceed.
    pub slow_seconds: f64,
    /// Images per second of all threads together.
    pub images_per_second: f64,
    /// Bytes per second of all threads together.
    pub bytes_per_second: f64,
    /// The mean bytes of an image.
    pub mean_bytes: f64,
}

/// The images that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// Up to this number, evenly spaced from the first image on.
    Spaced(u64),
    /// Up to this number, evenly spaced, but from half the space on, so that most are not those of `Spaced`.
    Between(u64),
}

impl Chosen {
    /// Returns the numbers of the images among `count`.
    fn items(self, count: u64) -> Vec<u64> {
        match self {
            Self::Spaced(images) => spaced_items(count, images).collect(),
            // Every second one of twice as many.
            Self::Between(images) => {
                let halves = images.clamp(1, count.max(1)).saturating_mul(2);
                if halves > count {
                    return spaced_items(count, images).collect();
                }
                spaced_items(count, halves).skip(1).step_by(2).collect()
            }
        }
    }
}

/// Reads images of a source on `threads` threads, without decoding them.
///
/// # Errors
/// If an image cannot be read.
pub fn measure_fetching(source: &dyn ImageSource, images: Chosen, threads: usize) -> Result<Fetching, Error> {
    let items = images.items(source.num_images());
    let fetch = |index: u64| {
        let start = Instant::now();
        let fetched = source.fetch(items[index as usize])?;
        let (Fetched::File(bytes) | Fetched::Pixels { bytes, .. }) = fetched;
        Ok::<_, Error>((start.elapsed().as_secs_f64(), bytes.len()))
    };
    let (mut seconds, mut bytes) = (Vec::with_capacity(items.len()), 0.0);
    let start = Instant::now();
    in_order(
        0..items.len() as u64,
        threads,
        fetch,
        |_| 0,
        |_, fetched| {
            let (time, length) = fetched?;
            seconds.push(time);
            bytes += length as f64;
            Ok(())
        },
    )?;
    let elapsed = start.elapsed().as_secs_f64().max(1e-9);
    let count = seconds.len() as f64;
    Ok(Fetching {
        median_seconds: quantile(&mut seconds, 0.5),
        slow_seconds: quantile(&mut seconds, 0.99),
        images_per_second: count / elapsed,
        bytes_per_second: bytes / elapsed,
        mean_bytes: bytes / count,
    })
}

/// Returns the smallest value that a part `part` of the values does not exceed; 0 without values.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * part).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_between_others_are_other_images() {
        assert_eq!(Chosen::Spaced(3).items(12), [0, 4, 8]);
        assert_eq!(Chosen::Between(3).items(12), [2, 6, 10]);
        assert_eq!(Chosen::Between(9).items(2), [0, 1]);
        let between = Chosen::Between(100).items(50_000);
        assert!(between.len() == 100 && Chosen::Spaced(500).items(50_000).iter().all(|item| !between.contains(item)));
    }

    #[test]
    fn quantiles_are_values() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((quantile(&mut values, 0.5), quantile(&mut values, 0.99)), (100.0, 198.0));
        assert_eq!((quantile(&mut [7.0], 0.99), quantile(&mut [], 0.5)), (7.0, 0.0));
    }
}
