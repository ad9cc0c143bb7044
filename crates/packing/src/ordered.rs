//! Work on several threads, whose results are taken in order.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;

use crate::error::Error;

/// The results of a thread that wait to be taken. They bound the memory.
const WAITING: usize = 4;

/// Calls `make` for each number on `threads` threads, and `take` with each result on this thread, in the order of the
/// numbers. Stops at the first error of `take`.
///
/// # Errors
/// The error of `take`; [`Error::Bug`] if a thread cannot be started or panics.
pub(crate) fn in_order<T: Send>(
    numbers: Range<u64>,
    threads: usize,
    make: impl Fn(u64) -> T + Sync,
    mut take: impl FnMut(u64, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let threads = threads.max(1);
    let make = &make;
    std::thread::scope(|scope| {
        let mut receivers = Vec::with_capacity(threads);
        for thread in 0..threads as u64 {
            let (sender, receiver) = sync_channel(WAITING);
            receivers.push(receiver);
            let own = (numbers.start.saturating_add(thread)..numbers.end).step_by(threads);
            let work = move || {
                for number in own {
                    // After a panic, its hook has printed the message, and the missing result is an error.
                    let Ok(made) = catch_unwind(AssertUnwindSafe(|| make(number))) else { return };
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
            take(number, made)?;
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
            in_order(3..50, threads, work, |number, square| {
                taken.push((number, square));
                Ok(())
            })
            .unwrap();
            assert_eq!(taken, (3..50).map(|number| (number, number * number)).collect::<Vec<_>>());
        }
        let fail = |number, _| if number == 5 { Err(Error::Bug("five".into())) } else { Ok(()) };
        assert_eq!(in_order(0..1 << 40, 3, |number| number, fail).unwrap_err().to_string(), "five");
    }

    #[test]
    fn a_panic_is_an_error() {
        let result = in_order(0..9, 2, |number| assert!(number != 4, "a panic of the test"), |_, ()| Ok(()));
        assert!(result.unwrap_err().to_string().contains("image 4"));
    }
}
