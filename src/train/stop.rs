//! Being asked to stop: a signal sets a flag, and the loop looks at it between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::ExitCode;

/// Whether the run was asked to stop. Clones share the answer; a test can ask as a signal does.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicUsize>,
}

impl Stop {
    /// Asks the run to stop after its step; a second time ends the process at once.
    pub fn ask(&self) {
        if self.asked.fetch_add(1, Ordering::Relaxed) > 0 {
            tracing::error!("asked to stop a second time: leaving without a checkpoint");
            std::process::exit(i32::from(ExitCode::Preempted as u8));
        }
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// Lets SIGINT, SIGTERM and SIGUSR1 ask, from a thread of its own.
    ///
    /// # Errors
    /// When the system allows no handler or no thread.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let stop = self.clone();
        let guard = runtime.enter();
        let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::user_defined1()]
            .into_iter()
            .map(signal)
            .collect::<std::io::Result<Vec<_>>>()?;
        drop(guard);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let waits = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
                    futures::future::select_all(waits).await;
                    tracing::warn!("asked to stop: writing a checkpoint after this step");
                    stop.ask();
                }
            });
        })?;
        Ok(())
    }
}
