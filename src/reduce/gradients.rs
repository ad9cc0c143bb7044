//! The all-reduce of gradients, bucket by bucket, after backward or while it runs.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use admiral_comm::buckets::{Bucket, Slot, cut};
use admiral_comm::{BucketTracker, Collective, CollectiveError, PhaseTracker};
use tch::{Device, Kind, Tensor};

use super::nccl::NcclReducer;
use super::own_gradients::{OwnGradients, last_bad};

/// Sums flat gradient buffers over ranks.
#[derive(Debug)]
pub struct GradientReducer {
    buckets: Vec<Bucket>,
    slots: Vec<Slot>,
    tracker: Arc<BucketTracker>,
    /// For each buffer that is not float32, the float32 buffer for its sums, which the first use allocates.
    sums: Vec<Option<Tensor>>,
    /// Sums gradients between GPUs. Without it, they are summed through the host.
    nccl: Option<NcclReducer>,
    phases: PhaseTracker,
}

/// The result of an all-reduce of gradients.
#[derive(Debug)]
pub struct Reduced {
    /// The sums of each buffer, on its device: see [`GradientReducer::reduce`].
    pub sums: Vec<Tensor>,
    /// The duration of the sums, from the time when all ranks have started a bucket, over all buckets. On GPUs, which
    /// do not wait for each other before a sum, it includes waiting for ranks that start a bucket later.
    pub busy: Duration,
    /// The part of `busy` after backward.
    pub exposed: Duration,
    /// The time that the rank only waited for sums: the exposed part, and waiting for ranks that start later. On a GPU
    /// it is the time that the GPU waited, which equals `exposed`.
    pub waited: Duration,
    /// The part of the time in the ledger's exchanges in which this rank's GPU still computed gradients. Zero on a CPU.
    pub hidden: Duration,
    /// Whether this rank's own gradients were finite.
    pub own: OwnGradients,
}

impl GradientReducer {
    /// Creates a reducer for flat buffers with buckets of at most `bucket_bytes`. `slots` are the positions of the
    /// parameters in the buffers, in the network's order.
    #[must_use]
    pub fn new(slots: &[Slot], bucket_bytes: usize, phases: PhaseTracker) -> Self {
        let buckets = cut(slots, bucket_bytes);
        let holds = |slot: &Slot, bucket: &Bucket| {
            bucket.buffer == slot.buffer && bucket.elements.contains(&slot.elements.start)
        };
        let bucket_of =
            slots.iter().map(|slot| buckets.iter().position(|bucket| holds(slot, bucket)).unwrap_or(0)).collect();
        let tracker = Arc::new(BucketTracker::new(bucket_of, &buckets));
        Self { buckets, slots: slots.to_vec(), tracker, sums: Vec::new(), nccl: None, phases }
    }

    /// Sums gradients with NCCL between the ranks' GPUs from now on.
    pub fn use_nccl(&mut self, nccl: NcclReducer) {
        self.nccl = Some(nccl);
    }

    /// Closes the NCCL communicator, if there is one. Every rank calls it.
    ///
    /// # Errors
    /// When a rank does not call it within the timeout.
    pub fn finish(&mut self) -> Result<(), CollectiveError> {
        self.nccl.take().map_or(Ok(()), NcclReducer::finish)
    }

    /// Returns the tracker that the parameters' hooks notify when a gradient is complete.
    #[must_use]
    pub fn tracker(&self) -> Arc<BucketTracker> {
        Arc::clone(&self.tracker)
    }

    /// Returns the number of buckets.
    #[must_use]
    pub fn num_buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Sums the flat buffers `gradients`, each `[elements]`, over the ranks. Returns the sums of each buffer, on its
    /// device.
    ///
    /// A float32 buffer is summed in place and returned. The sums of a half-precision buffer are float32, in memory
    /// that the next call reuses: a sum of finite gradients does not overflow, and an infinity or NaN of one rank
    /// reaches all ranks, so that all skip the step. With one rank, the buffers are returned unchanged. CUDA buffers
    /// are summed through host memory, unless [`GradientReducer::use_nccl`] was called.
    ///
    /// Every rank calls it with buffers of the same lengths and types.
    ///
    /// # Errors
    /// When the ranks cannot reach each other. The contents of the buffers are then undefined.
    ///
    /// # Panics
    /// When a buffer is not a contiguous vector that contains the slots.
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
            return wait_for_gpu(gpu, sums, num_buckets, |bucket| phases.reduce(bucket));
        }
        let mut own = OwnGradients::default();
        for (number, part) in parts.into_iter().enumerate() {
            let bad = part.sum(collective, || Ok(self.phases.reduce(number)))?;
            own.add(&self.buckets[number], bad, &self.slots);
        }
        // Ranks wait for each other within the sums, so waiting cannot be told from summing.
        let spent = begin.elapsed();
        Ok(Reduced { sums, busy: spent, exposed: spent, waited: spent, hidden: Duration::ZERO, own })
    }

    /// As [`reduce`](Self::reduce), while `backward` runs. A background thread sums the buckets in order, each as soon
    /// as [`BucketTracker::mark_filled`] was called for all of its parameters. Until `backward` returns, nothing else may
    /// touch the gradients or use the collective.
    ///
    /// # Errors
    /// When `backward` or the collective fails. The contents of the buffers are then undefined, and other ranks may
    /// wait for this one.
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
        tracker.start_pass();
        if let Some(gpu) = self.nccl.as_mut().filter(|_| num_buckets > 0) {
            enqueue_during(gpu, parts, tracker, backward)?;
            return Ok(wait_for_gpu(gpu, sums, num_buckets, |number| {
                phases.count_exchange();
                phases.wait_for_bucket(number)
            })?);
        }
        std::thread::scope(|threads| {
            let communication = threads.spawn(move || {
                // If this thread fails or panics, the other thread must not wait for its sums.
                let guard = GiveUpOnDrop(tracker);
                let spans = communicate(collective, phases, parts, tracker)?;
                std::mem::forget(guard);
                Ok::<_, CollectiveError>(spans)
            });
            let guard = GiveUpOnDrop(tracker);
            backward()?;
            std::mem::forget(guard);
            tracker.finish_pass();
            let begin = Instant::now();
            for bucket in 0..num_buckets {
                let exchange = phases.wait_for_bucket(bucket);
                let is_summed = tracker.await_summed(bucket + 1);
                drop(exchange);
                if !is_summed {
                    break;
                }
            }
            let waited = begin.elapsed();
            let (spans, bad) = communication.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let mut own = OwnGradients::default();
            for (bucket, bad) in self.buckets.iter().zip(bad) {
                own.add(bucket, bad, &self.slots);
            }
            let busy = spans.iter().map(|span| span.end - span.start).sum();
            let exposed = spans.iter().map(|span| span.end.saturating_duration_since(span.start.max(begin))).sum();
            Ok(Reduced { sums, busy, exposed, waited, hidden: Duration::ZERO, own })
        })
    }

    /// Returns the buffers for the sums, and the part of a buffer for each bucket. With one rank there are no parts.
    fn parts(&mut self, collective: &dyn Collective, gradients: &[&Tensor]) -> (Vec<Tensor>, Vec<Part>) {
        if collective.world_size() == 1 {
            return (gradients.iter().map(|gradient| gradient.shallow_clone()).collect(), Vec::new());
        }
        let _no_grad = tch::no_grad_guard();
        self.sums.resize_with(gradients.len(), || None);
        let sums: Vec<Tensor> =
            gradients.iter().zip(&mut self.sums).map(|(gradient, cached)| sum_buffer(gradient, cached)).collect();
        let parts = self.buckets.iter().map(|Bucket { buffer, elements, .. }| {
            let part = |flat: &Tensor| flat.narrow(0, elements.start as i64, elements.len() as i64);
            let is_float = gradients[*buffer].kind() == Kind::Float;
            Part { sum: part(&sums[*buffer]), gradient: (!is_float).then(|| part(gradients[*buffer])) }
        });
        let parts = parts.collect();
        (sums, parts)
    }
}

/// Enqueues the sum of each part when it is filled, while `backward` runs. On a GPU, `backward` and the sums are only
/// enqueued, so this returns long before the work is done.
fn enqueue_during<E: From<CollectiveError>>(
    gpu: &mut NcclReducer,
    parts: Vec<Part>,
    tracker: &BucketTracker,
    backward: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|threads| {
        let communication = threads.spawn(move || {
            let num_buckets = parts.len();
            for (number, mut part) in parts.into_iter().enumerate() {
                if !tracker.await_filled(number) {
                    break;
                }
                if number + 1 == num_buckets {
                    // Backward ends with the gradients of the last bucket.
                    gpu.backward_ends()?;
                }
                gpu.enqueue(number, part.in_float32())?;
            }
            Ok::<_, CollectiveError>(())
        });
        let guard = GiveUpOnDrop(tracker);
        backward()?;
        std::mem::forget(guard);
        tracker.finish_pass();
        communication.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(())
    })
}

/// Waits for all sums that were enqueued on a GPU. `enter` records in the ledger that this rank waits for a bucket.
fn wait_for_gpu<T>(
    gpu: &mut NcclReducer,
    sums: Vec<Tensor>,
    num_buckets: usize,
    enter: impl Fn(usize) -> T,
) -> Result<Reduced, CollectiveError> {
    let mut in_exchanges = Duration::ZERO;
    for number in 0..num_buckets {
        let mut entered = None;
        gpu.wait(number, || {
            entered = Some(Instant::now());
            enter(number)
        })?;
        in_exchanges += entered.map(|entered| entered.elapsed()).unwrap_or_default();
    }
    let (busy, exposed) = gpu.durations(num_buckets)?;
    // The first buckets are summed while backward still computes the others.
    let hidden = in_exchanges.saturating_sub(exposed);
    Ok(Reduced { sums, busy, exposed, waited: exposed, hidden, own: OwnGradients::Unknown })
}

/// The span of the sum of each part, and the position of this rank's last value in it that is not finite.
type Communicated = (Vec<Range<Instant>>, Vec<Option<usize>>);

/// Sums each part when it is filled and all ranks have started its sum.
fn communicate(
    collective: &dyn Collective,
    phases: &PhaseTracker,
    parts: Vec<Part>,
    tracker: &BucketTracker,
) -> Result<Communicated, CollectiveError> {
    let (mut spans, mut all_bad) = (Vec::new(), Vec::new());
    for (number, part) in parts.into_iter().enumerate() {
        if !tracker.await_filled(number) {
            break;
        }
        let mut all_ranks_ready = Instant::now();
        let bad = part.sum_in_background(collective, || {
            phases.count_exchange();
            collective.background_barrier()?;
            all_ranks_ready = Instant::now();
            Ok(())
        })?;
        spans.push(all_ranks_ready..Instant::now());
        all_bad.push(bad);
        tracker.mark_summed();
    }
    Ok((spans, all_bad))
}

/// Ends the wait of the other thread when this one fails or panics.
struct GiveUpOnDrop<'a>(&'a BucketTracker);

impl Drop for GiveUpOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The part of a flat buffer that is summed as one bucket.
#[derive(Debug)]
struct Part {
    /// The float32 memory for the sums.
    sum: Tensor,
    /// The gradients, if they are not float32. Otherwise `sum` holds them.
    gradient: Option<Tensor>,
}

impl Part {
    /// Converts this rank's gradients to float32 in the memory for the sums, and returns it.
    fn in_float32(&mut self) -> &Tensor {
        let _no_grad = tch::no_grad_guard();
        if let Some(gradient) = &self.gradient {
            self.sum.copy_(gradient);
        }
        &self.sum
    }

    /// Sums the part over the ranks. Calls `enter` when this rank starts the sum. Returns the position of this rank's last
    /// value that is not finite.
    fn sum<T>(
        self,
        collective: &dyn Collective,
        enter: impl FnOnce() -> Result<T, CollectiveError>,
    ) -> Result<Option<usize>, CollectiveError> {
        self.sum_by(enter, |values| collective.all_reduce_sum_f32(values))
    }

    /// As [`sum`](Self::sum), on the background channel of the collective.
    fn sum_in_background<T>(
        self,
        collective: &dyn Collective,
        enter: impl FnOnce() -> Result<T, CollectiveError>,
    ) -> Result<Option<usize>, CollectiveError> {
        self.sum_by(enter, |values| collective.background_all_reduce_sum_f32(values))
    }

    fn sum_by<T>(
        mut self,
        enter: impl FnOnce() -> Result<T, CollectiveError>,
        all_reduce: impl FnOnce(&mut [f32]) -> Result<(), CollectiveError>,
    ) -> Result<Option<usize>, CollectiveError> {
        let _no_grad = tch::no_grad_guard();
        self.in_float32();
        let is_on_host = self.sum.device() == Device::Cpu;
        // The copy waits until the GPU has computed the bucket's gradients. Only then does this rank start the sum.
        let mut host = if is_on_host { self.sum.shallow_clone() } else { self.sum.to_device(Device::Cpu) };
        let bad = last_bad(values(&mut host));
        let entered = enter()?;
        all_reduce(values(&mut host))?;
        drop(entered);
        if !is_on_host {
            self.sum.copy_(&host);
        }
        Ok(bad)
    }
}

/// Returns the buffer for the sums of a flat buffer: the buffer itself if it is float32, else `cached`, which is
/// allocated if it does not exist yet.
fn sum_buffer(gradient: &Tensor, cached: &mut Option<Tensor>) -> Tensor {
    if gradient.kind() == Kind::Float {
        return gradient.shallow_clone();
    }
    cached.get_or_insert_with(|| Tensor::zeros(gradient.size(), (Kind::Float, gradient.device()))).shallow_clone()
}

/// Returns the values of a flat float32 tensor in host memory.
fn values(flat: &mut Tensor) -> &mut [f32] {
    assert!(
        flat.kind() == Kind::Float && flat.device() == Device::Cpu && flat.dim() == 1 && flat.is_contiguous(),
        "gradients are summed in contiguous float32 vectors, not in {flat:?}"
    );
    // SAFETY: the tensor is a contiguous vector of `numel` floats in host memory, and outlives the slice that borrows
    // it.
    unsafe { std::slice::from_raw_parts_mut(flat.data_ptr().cast(), flat.numel()) }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::mock::MockPeer;
    use super::*;

    #[test]
    fn a_panic_of_the_communication_thread_ends_the_wait() {
        let slot = |start| Slot { buffer: 0, elements: start..start + 4 };
        let mut reducer = GradientReducer::new(&[slot(0), slot(4)], 1, PhaseTracker::private());
        let gradient = Tensor::ones([8], (Kind::Float, Device::Cpu));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            reducer.reduce_during(&MockPeer(Vec::new()), &[&gradient], || Ok::<_, CollectiveError>(())).map(drop)
        }));
        let panic = outcome.expect_err("the panic reaches the caller");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"no barrier on the host"));
    }

    #[test]
    fn a_parameter_that_is_filled_twice_counts_once() {
        let slot = |start| Slot { buffer: 0, elements: start..start + 4 };
        let reducer = GradientReducer::new(&[slot(0), slot(4)], 1 << 20, PhaseTracker::private());
        let tracker = reducer.tracker();
        tracker.start_pass();
        assert!(!tracker.mark_filled(1) && !tracker.mark_filled(1), "the other parameter is not filled");
        assert!(tracker.mark_filled(0));
    }
}
