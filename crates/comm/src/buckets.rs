//! Cuts flat gradient buffers into buckets, in the order in which the backward pass fills them.

use std::cmp::Reverse;
use std::ops::Range;

/// The largest default size of a bucket in bytes of float32, as in the published implementation. It is large enough to
/// use the full bandwidth of the network, and small enough that ADM's gradients (0.3 to 0.6 billion values) fill about a
/// dozen buckets, most of which are summed during the backward pass.
const MAX_DEFAULT_BYTES: usize = 128 << 20;
/// The smallest default size of a bucket in bytes. In smaller buckets the latency of a sum outweighs the overlap.
const MIN_DEFAULT_BYTES: usize = 256 << 10;
/// The number of buckets of a small network. With this many, all but the last are summed during the backward pass.
const DEFAULT_NUM_BUCKETS: usize = 12;

/// Returns the default size of a bucket in bytes for a network with `num_params` parameter values.
#[must_use]
pub fn default_bucket_bytes(num_params: usize) -> usize {
    (num_params * BYTES_PER_VALUE / DEFAULT_NUM_BUCKETS).clamp(MIN_DEFAULT_BYTES, MAX_DEFAULT_BYTES)
}

/// The size of a value in an all-reduce. Gradients of every type are summed in float32.
pub const BYTES_PER_VALUE: usize = size_of::<f32>();

/// The location of the gradient of one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The index of its flat buffer.
    pub buffer: usize,
    /// The range of its elements in that buffer.
    pub elements: Range<usize>,
}

/// Gradients that one all-reduce sums over the ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The index of the flat buffer.
    pub buffer: usize,
    /// The range of elements of the buffer: whole parameters, with the padding between them.
    pub elements: Range<usize>,
    /// The index of its first parameter in the network's order. The backward pass visits the parameters from last to
    /// first, so it has filled the bucket when it has computed the gradient of this one.
    pub first_param: usize,
}

/// Cuts flat gradient buffers into buckets of at most `bucket_bytes`. A parameter is never split: if it is larger than
/// `bucket_bytes`, it gets a bucket alone.
///
/// `slots` has one entry per parameter, in the order of the forward pass. Within each buffer the parameters have the same
/// order, with or without padding between them. Returns the buckets in the order in which the backward pass fills them.
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

    /// Slots for parameters given as (buffer, length), each padded to a multiple of `alignment`.
    fn slots(params: &[(usize, usize)], alignment: usize) -> Vec<Slot> {
        let mut ends = vec![0; params.iter().map(|(buffer, _)| buffer + 1).max().unwrap_or(0)];
        let slot = |&(buffer, length): &(usize, usize)| {
            let start: usize = ends[buffer];
            ends[buffer] = (start + length).next_multiple_of(alignment);
            Slot { buffer, elements: start..start + length }
        };
        params.iter().map(slot).collect()
    }

    fn ranges(buckets: &[Bucket]) -> Vec<(usize, Range<usize>)> {
        buckets.iter().map(|bucket| (bucket.buffer, bucket.elements.clone())).collect()
    }

    #[test]
    fn the_default_bucket_size_grows_with_the_network_up_to_the_published_size() {
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
    fn buckets_are_ordered_by_when_the_backward_pass_fills_them() {
        // The parameters alternate between two buffers. The backward pass visits 5, 4, 3, 2, 1, 0.
        let slots = slots(&[(0, 4), (1, 4), (0, 4), (1, 4), (0, 4), (1, 1)], 1);
        let buckets = cut(&slots, 32);
        assert_eq!(ranges(&buckets), [(1, 4..9), (0, 4..12), (1, 0..4), (0, 0..4)]);
        assert_eq!(buckets.iter().map(|bucket| bucket.first_param).collect::<Vec<_>>(), [3, 2, 1, 0]);
    }

    #[test]
    fn every_parameter_is_in_one_bucket_and_padding_counts_towards_the_size() {
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
