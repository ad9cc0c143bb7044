//! Which buckets of gradients backward has filled, and which are summed: what the thread that computes and the thread
//! that communicates know of each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::buckets::Bucket;

/// The buckets of one backward pass, from empty to summed.
///
/// Buckets are handed over in their order, which is the same on all ranks, however the pass fills them.
#[derive(Debug)]
pub struct BucketTracker {
    /// The bucket of each parameter.
    bucket_of: Vec<usize>,
    /// Parameters of each bucket.
    sizes: Vec<usize>,
    /// Whether the pass is the one whose gradients are summed: hooks are called in the others too.
    is_armed: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Parameters of each bucket that have no gradient yet.
    outstanding: Vec<usize>,
    /// Whether a parameter has one.
    is_filled: Vec<bool>,
    /// Buckets that are summed.
    summed: usize,
    /// No bucket will be filled or summed any more.
    is_over: bool,
}

impl BucketTracker {
    /// For parameters that lie in `buckets` as `bucket_of` says, in the network's order.
    #[must_use]
    pub fn new(bucket_of: Vec<usize>, buckets: &[Bucket]) -> Self {
        let mut sizes = vec![0; buckets.len()];
        bucket_of.iter().for_each(|&bucket| sizes[bucket] += 1);
        Self { bucket_of, sizes, is_armed: AtomicBool::new(false), state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next pass is the one.
    pub fn arm(&self) {
        *self.lock() = State {
            outstanding: self.sizes.clone(),
            is_filled: vec![false; self.bucket_of.len()],
            summed: 0,
            is_over: false,
        };
        self.is_armed.store(true, Ordering::Release);
    }

    /// The gradient of a parameter is complete for this pass. Returns whether that has filled the first bucket.
    pub fn filled(&self, param: usize) -> bool {
        if !self.is_armed.load(Ordering::Acquire) {
            return false;
        }
        let bucket = self.bucket_of[param];
        let mut state = self.lock();
        // One that comes twice does not count for another, and after the pass is over none counts.
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

    /// Backward is done: what it has not filled holds what it held before.
    pub fn fill_rest(&self) {
        self.is_armed.store(false, Ordering::Release);
        self.lock().outstanding.fill(0);
        self.changed.notify_all();
    }

    /// Either thread has failed: none waits for the other any more.
    pub fn give_up(&self) {
        self.is_armed.store(false, Ordering::Release);
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Waits until a bucket is filled; false where it will not be.
    pub fn await_filled(&self, bucket: usize) -> bool {
        let mut state = self.lock();
        while !state.is_over && state.outstanding[bucket] > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.is_over
    }

    /// One bucket more is summed.
    pub fn summed(&self) {
        self.lock().summed += 1;
        self.changed.notify_all();
    }

    /// Waits until so many buckets are summed; false where they will not be.
    pub fn await_summed(&self, count: usize) -> bool {
        let mut state = self.lock();
        while !state.is_over && state.summed < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.summed >= count
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Three parameters in two buckets: the last two first.
    fn readiness() -> BucketTracker {
        let bucket = |elements, first_param| Bucket { buffer: 0, elements, first_param };
        BucketTracker::new(vec![1, 0, 0], &[bucket(1..3, 1), bucket(0..1, 0)])
    }

    #[test]
    fn a_bucket_is_filled_by_its_last_parameter() {
        let readiness = readiness();
        assert!(!readiness.filled(2), "nobody has armed it");
        readiness.arm();
        assert!(!readiness.filled(0), "the second bucket is not the first");
        assert!(!readiness.filled(2));
        assert!(readiness.filled(1));
        assert!(!readiness.filled(1), "it was filled before");
        assert!(readiness.await_filled(0) && readiness.await_filled(1));
    }

    #[test]
    fn the_thread_that_communicates_waits_for_the_one_that_computes() {
        let readiness = readiness();
        readiness.arm();
        std::thread::scope(|threads| {
            let communicates = threads.spawn(|| {
                for bucket in 0..2 {
                    assert!(readiness.await_filled(bucket));
                    readiness.summed();
                }
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!communicates.is_finished());
            readiness.filled(1);
            readiness.filled(2);
            assert!(readiness.await_summed(1));
            readiness.fill_rest();
            assert!(readiness.await_summed(2));
        });
    }

    #[test]
    fn who_fails_lets_the_other_go() {
        let readiness = readiness();
        readiness.arm();
        readiness.give_up();
        assert!(!readiness.await_filled(0) && !readiness.await_summed(1));
        readiness.arm();
        readiness.fill_rest();
        assert!(readiness.await_filled(1), "the next pass begins anew");
    }
}
