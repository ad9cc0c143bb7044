//! Checks of `Collective` and of the sum of gradients, for every implementation. Every rank runs them.

use admiral::reduce::{GradientReducer, NcclReducer};
use admiral_comm::buckets::Slot;
use admiral_comm::{Collective, CollectiveError, PhaseTracker, any};
use admiral_random::{Philox, Stream};
use tch::{Device, Kind, Tensor};

/// Runs all checks. A failed check panics.
pub fn run(collective: &dyn Collective) {
    ranks_are_numbered(collective);
    sums(collective);
    sums_from_another_thread(collective);
    sums_are_the_same_bits_on_all_ranks(collective);
    infinities_and_nan_reach_all_ranks(collective);
    broadcasts(collective);
    gathers(collective);
    wrong_roots_are_refused(collective);
    flags(collective);
    sends_and_receives(collective);
    collective.barrier().unwrap();
    collective.background_barrier().unwrap();
    gradients(collective, &Place { device: Device::Cpu, open: None });
}

/// Runs the checks of gradients on GPUs. This rank's GPU is `ordinal`; `open` connects the GPUs of all ranks.
pub fn run_on_gpu(collective: &dyn Collective, ordinal: usize, open: &dyn Fn() -> NcclReducer) {
    gradients(collective, &Place { device: Device::Cuda(ordinal), open: Some(open) });
}

/// The device of the gradients, and the connection of GPUs.
struct Place<'a> {
    device: Device,
    open: Option<&'a dyn Fn() -> NcclReducer>,
}

impl Place<'_> {
    fn reducer(&self, bucket_bytes: usize) -> GradientReducer {
        let mut reducer = GradientReducer::new(&slots(), bucket_bytes, PhaseTracker::private());
        if let Some(open) = self.open {
            reducer.use_nccl(open());
        }
        reducer
    }

    /// Two buffers that differ on each rank.
    fn buffers(&self, rank: usize) -> [Tensor; 2] {
        [0, 1].map(|buffer| Tensor::from_slice(&uneven(rank * 2 + buffer, 136)).to_device(self.device))
    }
}

fn gradients(collective: &dyn Collective, place: &Place<'_>) {
    gradients_in_float32_are_summed_in_place(collective, place);
    gradients_in_half_precision_are_summed_in_float32(collective, place);
    gradients_are_summed_during_backward(collective, place);
}

/// The values of `rank`. Their magnitudes differ so much that the order of a sum changes its bits.
pub fn uneven(rank: usize, len: usize) -> Vec<f32> {
    let mut philox = Philox::new(5, Stream::Initialization, rank as u64);
    (0..len)
        .map(|_| {
            let bits = philox.next_u64();
            (bits as u32 as f32 - 2.0e9) * (1u64 << (bits >> 32 & 31)) as f32 * 1e-12
        })
        .collect()
}

fn ranks_are_numbered(collective: &dyn Collective) {
    let (rank, world) = (collective.rank(), collective.world_size());
    assert!(rank < world);
    assert!(collective.local_rank() < world);
    let ranks = collective.all_gather(&[rank as u8]).unwrap();
    assert_eq!(ranks, (0..world).map(|rank| vec![rank as u8]).collect::<Vec<_>>());
}

fn sums(collective: &dyn Collective) {
    let (rank, world) = (collective.rank(), collective.world_size());
    let expected = |i: usize| (world * (i % 1000) + world * (world - 1) / 2) as f64;
    // No values, fewer than ranks, few, and more than one message of four megabytes.
    for len in [0, 1, 2, 1000, 100_001, 2_300_001] {
        let mut single: Vec<f32> = (0..len).map(|i| (i % 1000 + rank) as f32).collect();
        collective.all_reduce_sum_f32(&mut single).unwrap();
        assert!(single.iter().enumerate().all(|(i, &value)| f64::from(value) == expected(i)), "{len} values in f32");
        let mut double: Vec<f64> = (0..len).map(|i| (i % 1000 + rank) as f64).collect();
        collective.all_reduce_sum_f64(&mut double).unwrap();
        assert!(double.iter().enumerate().all(|(i, &value)| value == expected(i)), "{len} values in f64");
    }
    // More digits than float32 has.
    let mut double = [1.0 + f64::EPSILON];
    collective.all_reduce_sum_f64(&mut double).unwrap();
    assert!(double[0] > world as f64);
}

fn sums_from_another_thread(collective: &dyn Collective) {
    let mut values = vec![1.0; 50_000];
    std::thread::scope(|scope| scope.spawn(|| collective.all_reduce_sum_f32(&mut values)).join()).unwrap().unwrap();
    assert!(values.iter().all(|&value| value == collective.world_size() as f32));
}

fn sums_are_the_same_bits_on_all_ranks(collective: &dyn Collective) {
    for len in [100, 60_000, 1_500_000] {
        let mut values = uneven(collective.rank(), len);
        collective.all_reduce_sum_f32(&mut values).unwrap();
        let mut first: Vec<u8> = values.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect();
        let own = first.clone();
        collective.broadcast(0, &mut first).unwrap();
        assert!(own == first, "rank {} has other sums of {len} values than rank 0", collective.rank());
    }
}

fn infinities_and_nan_reach_all_ranks(collective: &dyn Collective) {
    for len in [4, 400_000] {
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut values = vec![1.0; len];
            if collective.rank() == collective.world_size() - 1 {
                values[len / 2] = bad;
            }
            collective.all_reduce_sum_f32(&mut values).unwrap();
            assert!(values[len / 2] == bad || values[len / 2].is_nan() && bad.is_nan());
            assert_eq!(values.iter().filter(|value| !value.is_finite()).count(), 1);
        }
    }
}

fn pattern(rank: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + rank * 7 + 1) as u8).collect()
}

fn broadcasts(collective: &dyn Collective) {
    for root in 0..collective.world_size() {
        // The last length is more than two messages of four megabytes.
        for len in [0, 1, 1000, (8 << 20) + 5] {
            // The buffer is longer, shorter or as long as the root's.
            let mut bytes = if collective.rank() == root { pattern(root, len) } else { vec![9; 1000] };
            collective.broadcast(root, &mut bytes).unwrap();
            assert!(bytes == pattern(root, len), "{len} bytes from rank {root}");
        }
    }
}

fn gathers(collective: &dyn Collective) {
    let world = collective.world_size();
    // The lengths differ between ranks. The last ones are more than one message.
    for scale in [0, 1, 1000, 3_000_000] {
        let length = |rank: usize| scale * ((rank + 1) % world.max(2));
        let expected: Vec<_> = (0..world).map(|rank| pattern(rank, length(rank))).collect();
        let own = pattern(collective.rank(), length(collective.rank()));
        assert!(collective.all_gather(&own).unwrap() == expected, "all-gather at {scale}");
        for root in 0..world {
            let gathered = collective.gather(root, &own).unwrap();
            assert!(gathered == (collective.rank() == root).then(|| expected.clone()), "gather at {scale} to {root}");
        }
    }
}

fn sends_and_receives(collective: &dyn Collective) {
    let (rank, world) = (collective.rank(), collective.world_size());
    for len in [0, 5, 5_000_000] {
        // Ranks 0 and 1 exchange with each other, the others with themselves.
        let peer = match rank {
            0 if world > 1 => 1,
            1 => 0,
            other => other,
        };
        let mut bytes = vec![rank as u8; len];
        collective.sendrecv(peer, &mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == peer as u8), "{len} bytes");
    }
    assert!(collective.sendrecv(world, &mut []).is_err());
}

fn wrong_roots_are_refused(collective: &dyn Collective) {
    let root = collective.world_size();
    let message = format!("there is no rank {root} among {root} ranks");
    assert!(collective.gather(root, &[]).unwrap_err().to_string().contains(&message));
    assert!(collective.broadcast(root, &mut Vec::new()).unwrap_err().to_string().contains(&message));
}

fn flags(collective: &dyn Collective) {
    assert!(!any(collective, false).unwrap());
    assert!(any(collective, true).unwrap());
    assert!(any(collective, collective.rank() == collective.world_size() - 1).unwrap());
}

/// Six parameters, alternately in two flat buffers.
fn slots() -> Vec<Slot> {
    let slot = |buffer, start| Slot { buffer, elements: start..start + 40 };
    vec![slot(0, 0), slot(1, 0), slot(0, 48), slot(1, 48), slot(0, 96), slot(1, 96)]
}

fn gradients_in_float32_are_summed_in_place(collective: &dyn Collective, place: &Place<'_>) {
    let (rank, world) = (collective.rank(), collective.world_size());
    let mut sums = Vec::new();
    for bucket_bytes in [1, 400, 1 << 20] {
        let buffers = place.buffers(rank);
        let mut reducer = place.reducer(bucket_bytes);
        let reduced = reducer.reduce(collective, &[&buffers[0], &buffers[1]]).unwrap().sums;
        reducer.finish().unwrap();
        for (buffer, sum) in buffers.iter().zip(&reduced) {
            assert_eq!(buffer.data_ptr(), sum.data_ptr());
        }
        sums.push(reduced);
    }
    for (buffer, sum) in sums[0].iter().enumerate() {
        let mut expected = uneven(buffer, 136);
        for rank in 1..world {
            for (sum, value) in expected.iter_mut().zip(uneven(rank * 2 + buffer, 136)) {
                *sum += value;
            }
        }
        let values = Vec::<f32>::try_from(sum).unwrap();
        for slot in slots().iter().filter(|slot| slot.buffer == buffer) {
            assert_eq!(values[slot.elements.clone()], expected[slot.elements.clone()]);
        }
    }
    // The size of a bucket changes no bit.
    let at = |i: usize, buffer: usize| Vec::<f32>::try_from(sums[i][buffer].narrow(0, 96, 40)).unwrap();
    assert!((0..2).all(|buffer| at(0, buffer) == at(1, buffer) && at(0, buffer) == at(2, buffer)));
}

/// Sums during backward have the same bits as sums after it, in whatever order backward fills the buckets. Parameters
/// without a gradient are summed too.
fn gradients_are_summed_during_backward(collective: &dyn Collective, place: &Place<'_>) {
    let rank = collective.rank();
    let buffers = || place.buffers(rank);
    for bucket_bytes in [1, 400, 1 << 20] {
        let after = buffers();
        let mut reducer = place.reducer(bucket_bytes);
        let expected = reducer.reduce(collective, &[&after[0], &after[1]]).unwrap().sums;
        for order in [[5, 4, 3, 2, 1].as_slice(), &[0, 1, 2, 3, 4, 5], &[]] {
            let during = buffers();
            let tracker = reducer.tracker();
            let reduced = reducer.reduce_during(collective, &[&during[0], &during[1]], || {
                for &param in order {
                    tracker.mark_filled(param);
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Ok::<(), CollectiveError>(())
            });
            for (expected, sum) in expected.iter().zip(reduced.unwrap().sums) {
                let values = |sum: &Tensor| Vec::<f32>::try_from(sum).unwrap();
                assert_eq!(values(expected)[..136], values(&sum)[..136], "{order:?}");
            }
        }
        // If backward fails on every rank, the ranks can still communicate.
        let failed = buffers();
        let error = CollectiveError::NoSuchRank { operation: "a test", root: 9, world_size: 1 };
        let outcome = reducer.reduce_during(collective, &[&failed[0], &failed[1]], || Err::<(), _>(error));
        assert!(outcome.is_err());
        reducer.finish().unwrap();
        collective.barrier().unwrap();
    }
}

fn gradients_in_half_precision_are_summed_in_float32(collective: &dyn Collective, place: &Place<'_>) {
    let world = collective.world_size();
    let mut reducer = place.reducer(400);
    for _ in 0..2 {
        // Near the largest number of half precision, so that a sum in it would overflow. One rank has one infinity.
        let half = Tensor::full([136], 60_000.0, (Kind::Half, place.device));
        if collective.rank() == 0 {
            let _ = half.get(50).fill_(f64::INFINITY);
        }
        let bfloat = Tensor::full([136], 3.0, (Kind::BFloat16, place.device));
        let sums = reducer.reduce(collective, &[&half, &bfloat]).unwrap().sums;
        let values = |sum: &Tensor| Vec::<f32>::try_from(sum.to_kind(Kind::Float)).unwrap();
        let (halves, bfloats) = (values(&sums[0]), values(&sums[1]));
        assert_eq!(
            (halves[49], halves[50], halves[51]),
            (60_000.0 * world as f32, f32::INFINITY, 60_000.0 * world as f32)
        );
        assert_eq!(bfloats[100], 3.0 * world as f32);
        // The gradients are unchanged.
        assert_eq!(half.double_value(&[49]), 60_000.0);
    }
    reducer.finish().unwrap();
}
