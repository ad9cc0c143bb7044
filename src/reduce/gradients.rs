//! Summing gradients over ranks, bucket by bucket, after backward or while it goes on.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use admiral_comm::buckets::{Bucket, Slot, cut};
use admiral_comm::{BucketTracker, Collective, CollectiveError, PhaseTracker};
use tch::{Device, Kind, Tensor};

use super::nccl::NcclReducer;

/// Sums flat gradient buffers over ranks.
#[derive(Debug)]
pub struct GradientReducer {
    buckets: Vec<Bucket>,
    tracker: Arc<BucketTracker>,
    /// For each buffer that is not in float32 the float32 buffer that takes its sums; made at the first use.
    sums: Vec<Option<Tensor>>,
    /// Sums between GPUs. Without it gradients pass through the host.
    nccl: Option<NcclReducer>,
    phases: PhaseTracker,
}

/// Gradients that are summed.
#[derive(Debug)]
pub struct Reduced {
    /// One for each buffer, on its device: see [`GradientReducer::reduce`].
    pub sums: Vec<Tensor>,
    /// What summing took once all ranks had come to a bucket, over all buckets. On GPUs, which do not wait for each
    /// other before, what ranks that came later took is part of it.
    pub busy: Duration,
    /// The part of that which lay after backward.
    pub exposed: Duration,
    /// How long the rank did nothing but wait for sums: the exposed part, and other ranks that came later. On a GPU how
    /// long that did nothing, so the exposed part.
    pub waited: Duration,
}

impl GradientReducer {
    /// Prepares for flat buffers in which each parameter lies where `slots` says, in the network's order, with
    /// buckets of at most `bucket_bytes` ([`default_bucket_bytes`](super::default_bucket_bytes)).
    #[must_use]
    pub fn new(slots: &[Slot], bucket_bytes: usize, phases: PhaseTracker) -> Self {
        let buckets = cut(slots, bucket_bytes);
        let holds = |slot: &Slot, bucket: &Bucket| {
            bucket.buffer == slot.buffer && bucket.elements.contains(&slot.elements.start)
        };
        let bucket_of =
            slots.iter().map(|slot| buckets.iter().position(|bucket| holds(slot, bucket)).unwrap_or(0)).collect();
        let tracker = Arc::new(BucketTracker::new(bucket_of, &buckets));
        Self { buckets, tracker, sums: Vec::new(), nccl: None, phases }
    }

    /// Sums by NCCL between the ranks' GPUs, which hold the gradients.
    pub fn use_nccl(&mut self, nccl: NcclReducer) {
        self.nccl = Some(nccl);
    }

    /// Ends in order what was opened for GPUs; every rank calls it.
    ///
    /// # Errors
    /// When a rank does not come.
    pub fn finish(&mut self) -> Result<(), CollectiveError> {
        self.nccl.take().map_or(Ok(()), NcclReducer::finish)
    }

    /// What hooks on the parameters tell that a gradient is there.
    #[must_use]
    pub fn tracker(&self) -> Arc<BucketTracker> {
        Arc::clone(&self.tracker)
    }

    /// The number of buckets.
    #[must_use]
    pub fn num_buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Sums the flat buffers `gradients`, each `[elements]`, over the ranks and returns the sums, one for each
    /// buffer and on its device.
    ///
    /// A float32 buffer is summed in place and returned. The sums of a half-precision buffer come in float32, in
    /// memory that the next call uses again: a sum of finite gradients does not overflow, and one rank's infinity
    /// or NaN is there on all ranks, so that all skip the step alike. One rank alone gets its buffers back as
    /// they are. CUDA buffers pass through host memory, unless [`GradientReducer::use_nccl`] was called.
    ///
    /// Every rank calls it with buffers of the same lengths and types.
    ///
    /// # Errors
    /// When the ranks cannot reach each other; the contents of the buffers are then undefined.
    ///
    /// # Panics
    /// When a buffer is not a contiguous vector that holds the slots.
    pub fn reduce(&mut self, collective: &dyn Collective, gradients: &[&Tensor]) -> Result<Reduced, CollectiveError> {
        let begin = Instant::now();
        let (sums, parts) = self.parts(collective, gradients);
        if let Some(gpu) = self.nccl.as_mut().filter(|_| !parts.is_empty()) {
            let num_buckets = parts.len();
            gpu.backward_ends()?;
            for (number, mut part) in parts.into_iter().enumerate() {
                gpu.enqueue(number, part.in_float32())?;
            }
            let phases = &self.phases;
            return sums_of_gpu(gpu, sums, num_buckets, |bucket| phases.reduce(bucket));
        }
        for (number, part) in parts.into_iter().enumerate() {
            part.sum(collective, || Ok(self.phases.reduce(number)))?;
        }
        // Ranks wait for each other within the sums, and cannot tell that from summing.
        let spent = begin.elapsed();
        Ok(Reduced { sums, busy: spent, exposed: spent, waited: spent })
    }

    /// [`reduce`](Self::reduce) while `backward` goes on: a bucket travels as soon as [`BucketTracker::filled`] has
    /// heard of all of its parameters, on a thread of its own, in the order of the buckets. Until `backward` returns,
    /// nothing but it may touch the gradients, and nobody may call the collective.
    ///
    /// # Errors
    /// That of `backward`, or that of the collective. The contents of the buffers are then undefined, and other ranks
    /// may wait for this one.
    ///
    /// # Panics
    /// As [`reduce`](Self::reduce).
    pub fn reduce_during<E: From<CollectiveError>>(
        &mut self,
        collective: &dyn Collective,
        gradients: &[&Tensor],
        backward: impl FnOnce() -> Result<(), E>,
    ) -> Result<Reduced, E> {
        let (sums, parts) = self.parts(collective, gradients);
        let (tracker, phases) = (&*self.tracker, &self.phases);
        let num_buckets = parts.len();
        tracker.arm();
        if let Some(gpu) = self.nccl.as_mut().filter(|_| num_buckets > 0) {
            enqueue_during(gpu, parts, tracker, backward)?;
            return Ok(sums_of_gpu(gpu, sums, num_buckets, |number| {
                phases.count_exchange();
                phases.wait_for_bucket(number)
            })?);
        }
        std::thread::scope(|threads| {
            let communicates = threads.spawn(move || {
                // Whether it fails or panics: the other thread must not wait for sums that do not come.
                let guard = GiveUp(tracker);
                let spans = communicate(collective, phases, parts, tracker)?;
                std::mem::forget(guard);
                Ok::<_, CollectiveError>(spans)
            });
            let guard = GiveUp(tracker);
            backward()?;
            std::mem::forget(guard);
            tracker.fill_rest();
            let begin = Instant::now();
            for bucket in 0..num_buckets {
                let exchange = phases.wait_for_bucket(bucket);
                let goes_on = tracker.await_summed(bucket + 1);
                drop(exchange);
                if !goes_on {
                    break;
                }
            }
            let waited = begin.elapsed();
            let spans = communicates.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let busy = spans.iter().map(|span| span.end - span.start).sum();
            let exposed = spans.iter().map(|span| span.end.saturating_duration_since(span.start.max(begin))).sum();
            Ok(Reduced { sums, busy, exposed, waited })
        })
    }

    /// The buffers that take the sums, and the parts of buffers that travel, in their order; none where this rank is
    /// alone.
    fn parts(&mut self, collective: &dyn Collective, gradients: &[&Tensor]) -> (Vec<Tensor>, Vec<Part>) {
        if collective.world_size() == 1 {
            return (gradients.iter().map(|gradient| gradient.shallow_clone()).collect(), Vec::new());
        }
        let _no_grad = tch::no_grad_guard();
        self.sums.resize_with(gradients.len(), || None);
        let sums: Vec<Tensor> =
            gradients.iter().zip(&mut self.sums).map(|(gradient, kept)| sum_buffer(gradient, kept)).collect();
        let parts = self.buckets.iter().map(|Bucket { buffer, elements, .. }| {
            let part = |flat: &Tensor| flat.narrow(0, elements.start as i64, elements.len() as i64);
            let is_float = gradients[*buffer].kind() == Kind::Float;
            Part { sum: part(&sums[*buffer]), gradient: (!is_float).then(|| part(gradients[*buffer])) }
        });
        let parts = parts.collect();
        (sums, parts)
    }
}

/// Enqueues the sum of each part when it is filled, while `backward` goes on. On a GPU both only enqueue: that is done
/// long before the work is.
fn enqueue_during<E: From<CollectiveError>>(
    gpu: &mut NcclReducer,
    parts: Vec<Part>,
    tracker: &BucketTracker,
    backward: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|threads| {
        let communicates = threads.spawn(move || {
            let num_buckets = parts.len();
            for (number, mut part) in parts.into_iter().enumerate() {
                if !tracker.await_filled(number) {
                    break;
                }
                if number + 1 == num_buckets {
                    // The last bucket is filled by the last of backward.
                    gpu.backward_ends()?;
                }
                gpu.enqueue(number, part.in_float32())?;
            }
            Ok::<_, CollectiveError>(())
        });
        let guard = GiveUp(tracker);
        backward()?;
        std::mem::forget(guard);
        tracker.fill_rest();
        communicates.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(())
    })
}

/// Waits for all sums that were enqueued on a GPU; `enter` says to the ledger that this rank has come to a bucket.
fn sums_of_gpu<T>(
    gpu: &mut NcclReducer,
    sums: Vec<Tensor>,
    num_buckets: usize,
    enter: impl Fn(usize) -> T,
) -> Result<Reduced, CollectiveError> {
    for number in 0..num_buckets {
        gpu.wait(number, || enter(number))?;
    }
    let (busy, exposed) = gpu.spent(num_buckets)?;
    Ok(Reduced { sums, busy, exposed, waited: exposed })
}

/// Sums each part when it is filled and all ranks have come to it; returns when it did.
fn communicate(
    collective: &dyn Collective,
    phases: &PhaseTracker,
    parts: Vec<Part>,
    tracker: &BucketTracker,
) -> Result<Vec<Range<Instant>>, CollectiveError> {
    let mut spans = Vec::new();
    for (number, part) in parts.into_iter().enumerate() {
        if !tracker.await_filled(number) {
            break;
        }
        let mut all_are_there = Instant::now();
        part.sum_in_background(collective, || {
            phases.count_exchange();
            collective.background_barrier()?;
            all_are_there = Instant::now();
            Ok(())
        })?;
        spans.push(all_are_there..Instant::now());
        tracker.summed();
    }
    Ok(spans)
}

/// Lets the thread that communicates go when backward has failed or panics.
struct GiveUp<'a>(&'a BucketTracker);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// A part of a flat buffer.
#[derive(Debug)]
struct Part {
    /// Where the sums go, float32.
    sum: Tensor,
    /// The gradients, where they are not of that type.
    gradient: Option<Tensor>,
}

impl Part {
    /// This rank's gradients where the sums go.
    fn in_float32(&mut self) -> &Tensor {
        let _no_grad = tch::no_grad_guard();
        if let Some(gradient) = &self.gradient {
            self.sum.copy_(gradient);
        }
        &self.sum
    }

    /// Sums it over the ranks. Calls `enter` when this rank has come to it.
    fn sum<T>(
        self,
        collective: &dyn Collective,
        enter: impl FnOnce() -> Result<T, CollectiveError>,
    ) -> Result<(), CollectiveError> {
        self.sum_by(enter, |values| collective.all_reduce_sum_f32(values))
    }

    /// [`sum`](Self::sum) on a background thread.
    fn sum_in_background<T>(
        self,
        collective: &dyn Collective,
        enter: impl FnOnce() -> Result<T, CollectiveError>,
    ) -> Result<(), CollectiveError> {
        self.sum_by(enter, |values| collective.background_all_reduce_sum_f32(values))
    }

    fn sum_by<T>(
        mut self,
        enter: impl FnOnce() -> Result<T, CollectiveError>,
        all_reduce: impl FnOnce(&mut [f32]) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let _no_grad = tch::no_grad_guard();
        self.in_float32();
        let is_on_host = self.sum.device() == Device::Cpu;
        // The copy waits for the GPU. Until it has computed the bucket's part of backward, this rank has not come to
        // it.
        let mut host = if is_on_host { self.sum.shallow_clone() } else { self.sum.to_device(Device::Cpu) };
        let entered = enter()?;
        all_reduce(values(&mut host))?;
        drop(entered);
        if !is_on_host {
            self.sum.copy_(&host);
        }
        Ok(())
    }
}

/// Where the sums of a flat buffer go: the buffer itself in float32, else `kept`, made when there is none yet.
fn sum_buffer(gradient: &Tensor, kept: &mut Option<Tensor>) -> Tensor {
    if gradient.kind() == Kind::Float {
        return gradient.shallow_clone();
    }
    kept.get_or_insert_with(|| Tensor::zeros(gradient.size(), (Kind::Float, gradient.device()))).shallow_clone()
}

/// The values of a flat float32 tensor in host memory.
fn values(flat: &mut Tensor) -> &mut [f32] {
    assert!(
        flat.kind() == Kind::Float && flat.device() == Device::Cpu && flat.dim() == 1 && flat.is_contiguous(),
        "gradients are summed in contiguous float32 vectors, not in {flat:?}"
    );
    // SAFETY: a contiguous vector of `numel` floats in host memory, which lives as long as the borrow of its tensor.
    unsafe { std::slice::from_raw_parts_mut(flat.data_ptr().cast(), flat.numel()) }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::mock::MockPeer;
    use super::*;

    #[test]
    fn a_thread_that_panics_keeps_nobody_waiting() {
        let slot = |start| Slot { buffer: 0, elements: start..start + 4 };
        let mut reducer = GradientReducer::new(&[slot(0), slot(4)], 1, PhaseTracker::private());
        let gradient = Tensor::ones([8], (Kind::Float, Device::Cpu));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            reducer.reduce_during(&MockPeer(Vec::new()), &[&gradient], || Ok::<_, CollectiveError>(())).map(drop)
        }));
        let panic = outcome.expect_err("it panics here as it did there");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"GPUs wait for each other"));
    }

    #[test]
    fn a_parameter_that_comes_twice_stands_for_itself() {
        let slot = |start| Slot { buffer: 0, elements: start..start + 4 };
        let reducer = GradientReducer::new(&[slot(0), slot(4)], 1 << 20, PhaseTracker::private());
        let tracker = reducer.tracker();
        tracker.arm();
        assert!(!tracker.filled(1) && !tracker.filled(1), "the other one is not there");
        assert!(tracker.filled(0));
    }
}
