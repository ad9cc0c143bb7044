//! Whether the gradients of one rank are finite before they are summed with those of the other ranks.

use admiral_comm::buckets::{Bucket, Slot};

/// What is known of a rank's own gradients in a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OwnGradients {
    /// Nothing: they were not summed, or between GPUs, which leaves no time to look at them.
    #[default]
    Unknown,
    /// They are finite.
    Finite,
    /// Some are not finite. Of their parameters, this is the first one that backward reached.
    Bad {
        /// The index of the parameter in its network.
        param: usize,
    },
}

impl OwnGradients {
    /// Adds a bucket. Buckets are added in the order in which backward fills them. `bad` is the position in the bucket of
    /// its last value that is not finite.
    pub(super) fn add(&mut self, bucket: &Bucket, bad: Option<usize>, slots: &[Slot]) {
        match (*self, bad) {
            (Self::Bad { .. }, _) => {}
            (_, None) => *self = Self::Finite,
            (_, Some(position)) => {
                let element = bucket.elements.start + position;
                let holds = |slot: &Slot| slot.buffer == bucket.buffer && slot.elements.contains(&element);
                // Only padding is in no slot, and padding is zero.
                let param = slots.iter().position(holds).unwrap_or(bucket.first_param);
                *self = Self::Bad { param };
            }
        }
    }
}

/// The number of values that are checked together, so that the check is vectorized.
const CHUNK: usize = 1024;

/// Returns the position of the last value that is not finite.
pub(super) fn last_bad(values: &[f32]) -> Option<usize> {
    let is_bad = |values: &[f32]| !values.iter().fold(true, |all, value| all & value.is_finite());
    let num_chunks = values.len().div_ceil(CHUNK);
    let chunk = values.chunks(CHUNK).rev().position(is_bad)?;
    let start = (num_chunks - 1 - chunk) * CHUNK;
    let end = values.len().min(start + CHUNK);
    Some(start + values[start..end].iter().rposition(|value| !value.is_finite())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_that_is_not_finite_is_found() {
        for length in [1, CHUNK - 1, CHUNK, 3 * CHUNK + 7] {
            let mut values = vec![f32::MAX; length];
            assert_eq!(last_bad(&values), None);
            for (place, value) in [(0, f32::NAN), (length / 2, f32::INFINITY), (length - 1, f32::NEG_INFINITY)] {
                values[place] = value;
                assert_eq!(last_bad(&values), Some(place), "{length}");
            }
        }
        assert_eq!(last_bad(&[]), None);
    }

    #[test]
    fn the_parameter_that_backward_reaches_first_is_named() {
        let slot = |elements| Slot { buffer: 0, elements };
        let slots = [slot(0..3), slot(4..8), slot(8..9)];
        let bucket = |elements, first_param| Bucket { buffer: 0, elements, first_param };
        let (late, early) = (bucket(4..9, 1), bucket(0..4, 0));
        let mut own = OwnGradients::default();
        own.add(&late, None, &slots);
        assert_eq!(own, OwnGradients::Finite);
        own.add(&early, Some(2), &slots);
        assert_eq!(own, OwnGradients::Bad { param: 0 });
        let mut own = OwnGradients::default();
        own.add(&late, Some(1), &slots);
        own.add(&early, Some(2), &slots);
        assert_eq!(own, OwnGradients::Bad { param: 1 });
    }
}
