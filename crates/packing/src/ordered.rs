//! Work on several threads, whose results are taken in order.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::error::Error;

/// The most results of a thread that wait to be taken.
const WAITING: usize = 4;

/// The most bytes of the results of all threads that wait to be taken. Each thread has one more result at most.
const WAITING_BYTES: u64 = 256 << 20;

/// The bytes of the results that wait to be taken.
#[derive(Default)]
struct Budget {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: u64,
    /// The number of the result that is taken next. It never waits, so that the threads cannot block each other.
    next: u64,
    is_over: bool,
}

impl Budget {
    /// Waits until a result of `bytes` bytes has room.
    fn enter(&self, number: u64, bytes: u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |state: &mut Waiting| {
            !state.is_over && number != state.next && state.bytes.saturating_add(bytes) > WAITING_BYTES
        };
        let mut state = self.changed.wait_while(state, is_full).unwrap_or_else(PoisonError::into_inner);
        state.bytes = state.bytes.saturating_add(bytes);
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// Ends the waiting of all threads when it is dropped.
struct End<'a>(&'a Budget);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.is_over = true);
    }
}

/// Calls `make` for each number on `threads` threads, and `take` with each result on this thread, in the order of the
/// numbers. Stops at the first error of `take`. `bytes_of` tells the memory that a result takes, and bounds that of all
/// results that wait.
///
/// # Errors
/// The error of `take`; [`Error::Bug`] if a thread cannot be started or panics.
pub(crate) fn in_order<T: Send>(
    numbers: Range<u64>,
    threads: usize,
    make: impl Fn(u64) -> T + Sync,
    bytes_of: impl Fn(&T) -> u64 + Sync,
    mut take: impl FnMut(u64, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let threads = threads.max(1);
    let (make, bytes_of) = (&make, &bytes_of);
    let budget = Budget::default();
    let budget = &budget;
    budget.change(|state| state.next = numbers.start);
    std::thread::scope(|scope| {
        let _end = End(budget);
        let mut receivers = Vec::with_capacity(threads);
        for thread in 0..threads as u64 {
            let (sender, receiver) = sync_channel(WAITING);
            receivers.push(receiver);
            let own = (numbers.start.saturating_add(thread)..numbers.end).step_by(threads);
            let work = move || {
                for number in own {
                    // After a panic, its hook has printed the message, and the missing result is an error.
                    let Ok(made) = catch_unwind(AssertUnwindSafe(|| make(number))) else { return };
                    budget.enter(number, bytes_of(&made));
                    // Nobody takes results after an error.
                    if sender.send(made).is_err() {
                        return;
                    }
                }
            };
            let started = std::thread::Builder::new().name(format!("pack-{thread}")).spawn_scoped(scope, work);
            started.map_err(|error| Error::Bug(format!("a thread cannot be started: {error}")))?;
        }
        for (number, receiver) in numbers.clone().zip((0..threads).cycle()) {
            let made = receivers[receiver].recv();
            let made = made.map_err(|_| Error::Bug(format!("the thread that made image {number} has died")))?;
            let bytes = bytes_of(&made);
            take(number, made)?;
            budget.change(|state| {
                state.bytes = state.bytes.saturating_sub(bytes);
                state.next = number + 1;
            });
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn results_come_in_order_and_an_error_ends_the_threads() {
        for threads in [1, 2, 5] {
            let mut taken = Vec::new();
            let work = |number: u64| {
                std::thread::sleep(std::time::Duration::from_micros(number * 7 % 5 * 100));
                number * number
            };
            in_order(
                3..50,
                threads,
                work,
                |_| 0,
                |number, square| {
                    taken.push((number, square));
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(taken, (3..50).map(|number| (number, number * number)).collect::<Vec<_>>());
        }
        let fail = |number, _| if number == 5 { Err(Error::Bug("five".into())) } else { Ok(()) };
        assert_eq!(in_order(0..1 << 40, 3, |number| number, |_| 0, fail).unwrap_err().to_string(), "five");
    }

    #[test]
    fn the_bytes_that_wait_are_bounded() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (made, threads) = (AtomicU64::new(0), 4);
        let make = |_| _ = made.fetch_add(1, Ordering::SeqCst);
        let mut most = 0;
        // Two results fill the budget.
        let take = |number: u64, ()| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            most = most.max(made.load(Ordering::SeqCst) - number);
            Ok(())
        };
        in_order(0..40, threads, make, |()| WAITING_BYTES / 2, take).unwrap();
        // Those that wait, the one that is taken or was let in as the next, and the one in the hands of each thread.
        assert!(most <= 2 + 1 + threads as u64, "{most}");
    }

    #[test]
    fn a_panic_is_an_error() {
        let result = in_order(0..9, 2, |number| assert!(number != 4, "a panic of the test"), |()| 0, |_, ()| Ok(()));
        assert!(result.unwrap_err().to_string().contains("image 4"));
    }
}
