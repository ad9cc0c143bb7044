//! The accounts of the run's time, read from the files of events at an interval.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use admiral_goodput::{Ledger, read_events};

use super::launch_metrics::LaunchMetrics;

/// The time between two readings of the files.
const INTERVAL: Duration = Duration::from_secs(60);

/// Reads the files from a thread of its own, because the file system may not answer. Ends the thread when dropped.
#[derive(Debug)]
pub(crate) struct Accounts {
    _stop: SyncSender<()>,
}

impl Accounts {
    /// Starts to read the events in `run_folder` for `metrics`.
    ///
    /// # Errors
    /// If the system provides no thread.
    pub(crate) fn start(run_folder: PathBuf, metrics: LaunchMetrics) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel::<()>(0);
        let read = move || {
            loop {
                // What cannot be read now may be read later; `admiral-launch goodput` tells why.
                if let Ok((events, _)) = read_events(&run_folder) {
                    metrics.accounts(&Ledger::of(&events).wall_clock());
                }
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("accounts".into()).spawn(read)?;
        Ok(Self { _stop: stop })
    }
}
