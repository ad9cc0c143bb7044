//! Tracks which buckets of gradients the backward pass has filled and which are summed. It synchronizes the thread that
//! computes gradients with the thread that communicates.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::buckets::Bucket;

/// Tracks the buckets of one backward pass, from empty to summed.
///
/// The computing thread calls [`start_pass`](Self::start_pass), [`mark_filled`](Self::mark_filled) for each parameter,
/// [`finish_pass`](Self::finish_pass), and [`await_summed`](Self::await_summed). The communicating thread calls
/// [`await_filled`](Self::await_filled) and [`mark_summed`](Self::mark_summed) for each bucket, in the order of buckets,
/// which is the same on all ranks. The pass may fill the buckets in another order.
#[derive(Debug)]
pub struct BucketTracker {
    /// The bucket of each parameter.
    bucket_of: Vec<usize>,
    /// The number of parameters of each bucket.
    sizes: Vec<usize>,
    /// Whether the gradients of the current pass are summed. With gradient accumulation, only those of the last pass are,
    /// but hooks call [`BucketTracker::mark_filled`] in every pass.
    is_active: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of parameters of each bucket whose gradients are not complete yet.
    outstanding: Vec<usize>,
    /// Whether the gradient of each parameter is complete.
    is_filled: Vec<bool>,
    /// The number of buckets that are summed.
    summed: usize,
    /// Whether a thread has failed, so that no more buckets will be filled or summed.
    is_canceled: bool,
}

impl BucketTracker {
    /// Tracks `buckets`. `bucket_of` has the index of the bucket of each parameter, in the network's order.
    #[must_use]
    pub fn new(bucket_of: Vec<usize>, buckets: &[Bucket]) -> Self {
        let mut sizes = vec![0; buckets.len()];
        bucket_of.iter().for_each(|&bucket| sizes[bucket] += 1);
        Self { bucket_of, sizes, is_active: AtomicBool::new(false), state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the backward pass whose gradients are summed. All buckets are empty.
    pub fn start_pass(&self) {
        *self.lock() = State {
            outstanding: self.sizes.clone(),
            is_filled: vec![false; self.bucket_of.len()],
            summed: 0,
            is_canceled: false,
        };
        self.is_active.store(true, Ordering::Release);
    }

    /// Records that the gradient of a parameter is complete. Returns whether this filled the first bucket. Does nothing
    /// outside a pass that [`start_pass`](Self::start_pass) started.
    pub fn mark_filled(&self, param: usize) -> bool {
        if !self.is_active.load(Ordering::Acquire) {
            return false;
        }
        let bucket = self.bucket_of[param];
        let mut state = self.lock();
        // A parameter that is reported twice counts once. After `finish_pass` nothing is outstanding.
        if std::mem::replace(&mut state.is_filled[param], true) {
            return false;
        }
        let Some(left) = state.outstanding[bucket].checked_sub(1) else { return false };
        state.outstanding[bucket] = left;
        if left == 0 {
            self.changed.notify_all();
        }
        bucket == 0 && left == 0
    }

    /// Ends the backward pass. The remaining buckets count as filled: parameters without a gradient in this pass keep
    /// the values of earlier passes.
    pub fn finish_pass(&self) {
        self.is_active.store(false, Ordering::Release);
        self.lock().outstanding.fill(0);
        self.changed.notify_all();
    }

    /// Wakes both threads, because one of them failed. They do not wait for each other again until the next pass.
    pub fn cancel(&self) {
        self.is_active.store(false, Ordering::Release);
        self.lock().is_canceled = true;
        self.changed.notify_all();
    }

    /// Blocks until a bucket is filled. Returns false if the pass was canceled.
    pub fn await_filled(&self, bucket: usize) -> bool {
        let mut state = self.lock();
        while !state.is_canceled && state.outstanding[bucket] > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.is_canceled
    }

    /// Records that one more bucket is summed.
    pub fn mark_summed(&self) {
        self.lock().summed += 1;
        self.changed.notify_all();
    }

    /// Blocks until the first `count` buckets are summed. Returns false if the pass was canceled before.
    pub fn await_summed(&self, count: usize) -> bool {
        let mut state = self.lock();
        while !state.is_canceled && state.summed < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.summed >= count
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A tracker of three parameters. The first bucket has the last two.
    fn tracker() -> BucketTracker {
        let bucket = |elements, first_param| Bucket { buffer: 0, elements, first_param };
        BucketTracker::new(vec![1, 0, 0], &[bucket(1..3, 1), bucket(0..1, 0)])
    }

    #[test]
    fn a_bucket_is_filled_by_its_last_parameter() {
        let tracker = tracker();
        assert!(!tracker.mark_filled(2), "no pass has started");
        tracker.start_pass();
        assert!(!tracker.mark_filled(0), "the second bucket is not the first");
        assert!(!tracker.mark_filled(2));
        assert!(tracker.mark_filled(1));
        assert!(!tracker.mark_filled(1), "it was filled before");
        assert!(tracker.await_filled(0) && tracker.await_filled(1));
    }

    #[test]
    fn the_communicating_thread_waits_for_the_computing_thread() {
        let tracker = tracker();
        tracker.start_pass();
        std::thread::scope(|threads| {
            let communicating = threads.spawn(|| {
                for bucket in 0..2 {
                    assert!(tracker.await_filled(bucket));
                    tracker.mark_summed();
                }
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!communicating.is_finished());
            tracker.mark_filled(1);
            tracker.mark_filled(2);
            assert!(tracker.await_summed(1));
            tracker.finish_pass();
            assert!(tracker.await_summed(2));
        });
    }

    #[test]
    fn canceling_wakes_the_waiting_thread() {
        let tracker = tracker();
        tracker.start_pass();
        tracker.cancel();
        assert!(!tracker.await_filled(0) && !tracker.await_summed(1));
        tracker.start_pass();
        tracker.finish_pass();
        assert!(tracker.await_filled(1), "the next pass is not canceled");
    }
}
