//! Cutting flat gradient buffers into buckets, in the order in which backward fills them.

use std::cmp::Reverse;
use std::ops::Range;

/// Most bytes of a bucket unless the configuration says otherwise, as it travels, in float32. The published
/// implementation's 128 MB: large enough that a network at full speed carries it, small enough that ADM's gradients (0.3
/// to 0.6 billion values) make a dozen buckets, most of which can travel while backward goes on.
const MOST_BUCKET_BYTES: usize = 128 << 20;
/// Below this the latency of a sum outweighs what can be hidden.
const LEAST_BUCKET_BYTES: usize = 256 << 10;
/// A small network too has buckets enough that all but the last travel while backward goes on.
const BUCKETS: usize = 12;

/// The size of a bucket in bytes for so many parameters, unless the configuration says otherwise.
#[must_use]
pub fn default_bucket_bytes(num_params: usize) -> usize {
    (num_params * BYTES_PER_VALUE / BUCKETS).clamp(LEAST_BUCKET_BYTES, MOST_BUCKET_BYTES)
}

/// Sums travel in float32 whatever the gradients' type.
pub const BYTES_PER_VALUE: usize = size_of::<f32>();

/// Where the gradient of one parameter lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The place of its flat buffer among the buffers.
    pub buffer: usize,
    /// Its elements in that buffer.
    pub elements: Range<usize>,
}

/// Gradients that are summed over ranks by one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The place of the flat buffer among the buffers.
    pub buffer: usize,
    /// The elements of the buffer: whole parameters, and the padding between them.
    pub elements: Range<usize>,
    /// The first parameter in it, by its place in the network: backward, which goes from the last to the first, has
    /// filled the bucket when it has been there.
    pub first_param: usize,
}

/// Cuts flat gradient buffers into buckets of at most `bucket_bytes`, without splitting a parameter: one that is
/// larger has a bucket of its own.
///
/// `slots` has one entry for each parameter in the network's order, which is that of forward; within each buffer
/// the parameters lie in the same order, with or without padding between them. The buckets come in the order in
/// which backward completes them.
#[must_use]
pub fn cut(slots: &[Slot], bucket_bytes: usize) -> Vec<Bucket> {
    let capacity = bucket_bytes / BYTES_PER_VALUE;
    let num_buffers = slots.iter().map(|slot| slot.buffer + 1).max().unwrap_or(0);
    let mut open: Vec<Option<Bucket>> = vec![None; num_buffers];
    let mut buckets = Vec::new();
    for (param, slot) in slots.iter().enumerate().rev() {
        let bucket = &mut open[slot.buffer];
        match bucket {
            Some(bucket) if bucket.elements.end - slot.elements.start <= capacity => {
                bucket.elements.start = slot.elements.start;
                bucket.first_param = param;
            }
            _ => {
                let fresh = Bucket { buffer: slot.buffer, elements: slot.elements.clone(), first_param: param };
                buckets.extend(bucket.replace(fresh));
            }
        }
    }
    buckets.extend(open.into_iter().flatten());
    buckets.sort_by_key(|bucket| Reverse(bucket.first_param));
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots in buffers given by number, each parameter padded to a multiple of `alignment`.
    fn slots(params: &[(usize, usize)], alignment: usize) -> Vec<Slot> {
        let mut ends = vec![0; params.iter().map(|(buffer, _)| buffer + 1).max().unwrap_or(0)];
        let place = |&(buffer, length): &(usize, usize)| {
            let start: usize = ends[buffer];
            ends[buffer] = (start + length).next_multiple_of(alignment);
            Slot { buffer, elements: start..start + length }
        };
        params.iter().map(place).collect()
    }

    fn ranges(buckets: &[Bucket]) -> Vec<(usize, Range<usize>)> {
        buckets.iter().map(|bucket| (bucket.buffer, bucket.elements.clone())).collect()
    }

    #[test]
    fn the_released_networks_have_the_published_buckets_and_small_ones_small_buckets() {
        assert_eq!(default_bucket_bytes(553_838_086), 128 << 20);
        assert_eq!(default_bucket_bytes(1_371_522), 1_371_522 / 3);
        assert_eq!(default_bucket_bytes(10), 256 << 10);
    }

    #[test]
    fn nothing_gives_no_bucket() {
        assert_eq!(cut(&[], 64), []);
    }

    #[test]
    fn the_last_parameters_come_first() {
        let slots = slots(&[(0, 4), (0, 4), (0, 4), (0, 4), (0, 2)], 1);
        // 8 values of 4 bytes: the last three parameters would be 10.
        assert_eq!(ranges(&cut(&slots, 32)), [(0, 12..18), (0, 4..12), (0, 0..4)]);
    }

    #[test]
    fn a_parameter_larger_than_a_bucket_is_not_split() {
        let slots = slots(&[(0, 2), (0, 100), (0, 2)], 1);
        assert_eq!(ranges(&cut(&slots, 16)), [(0, 102..104), (0, 2..102), (0, 0..2)]);
    }

    #[test]
    fn a_bucket_is_due_when_its_first_parameter_is_done() {
        // Two buffers in turn: backward visits 5, 4, 3, 2, 1, 0.
        let slots = slots(&[(0, 4), (1, 4), (0, 4), (1, 4), (0, 4), (1, 1)], 1);
        let buckets = cut(&slots, 32);
        assert_eq!(ranges(&buckets), [(1, 4..9), (0, 4..12), (1, 0..4), (0, 0..4)]);
        assert_eq!(buckets.iter().map(|bucket| bucket.first_param).collect::<Vec<_>>(), [3, 2, 1, 0]);
    }

    #[test]
    fn every_value_is_in_one_bucket_and_padding_counts_towards_the_size() {
        let lengths = [3, 17, 1, 64, 5, 5, 31, 16, 2, 90, 7];
        let params: Vec<_> = lengths.iter().enumerate().map(|(i, &length)| (i % 3 / 2, length)).collect();
        let slots = slots(&params, 16);
        for bucket_bytes in [0, 4, 64, 100, 256, 1 << 20] {
            let buckets = cut(&slots, bucket_bytes);
            for slot in &slots {
                let holders = buckets.iter().filter(|bucket| {
                    let (held, elements) = (&bucket.elements, &slot.elements);
                    bucket.buffer == slot.buffer && held.start <= elements.start && elements.end <= held.end
                });
                assert_eq!(holders.count(), 1, "{slot:?} with {bucket_bytes} bytes");
            }
            for bucket in &buckets {
                let num_params = slots
                    .iter()
                    .filter(|slot| slot.buffer == bucket.buffer && bucket.elements.contains(&slot.elements.start));
                let (size, alone) = (bucket.elements.len() * 4, num_params.count() == 1);
                assert!(size <= bucket_bytes || alone, "{bucket:?} of {size} bytes where {bucket_bytes} are allowed");
            }
        }
        assert_eq!(cut(&slots, 1 << 20).len(), 2);
    }
}
