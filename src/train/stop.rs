//! Being asked to stop: a signal sets a flag, and the loop looks at it between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use admiral_comm::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Whether the run was asked to stop. Clones share the answer; a test can ask as a signal does.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
}

impl Stop {
    /// Asks the run to stop after its step.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Lets SIGINT, SIGTERM and SIGUSR1 ask, from a thread of its own. A second SIGINT, an impatient person's, ends
    /// the process at once; launchers and schedulers send the others more than once, to the launcher and to the ranks,
    /// and do not mean more by it.
    ///
    /// # Errors
    /// When the system allows no handler or no thread.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let stop = self.clone();
        let guard = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut user = signal(SignalKind::user_defined1())?;
        drop(guard);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                let mut interrupts = 0;
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => interrupts += 1,
                        _ = terminate.recv() => {}
                        _ = user.recv() => {}
                    }
                    if interrupts > 1 {
                        tracing::error!("interrupted a second time: leaving without a checkpoint");
                        std::process::exit(i32::from(ExitCode::Preempted as u8));
                    }
                    if !stop.is_asked() {
                        tracing::warn!("asked to stop: writing a checkpoint after this step");
                    }
                    stop.ask();
                }
            });
        })?;
        Ok(())
    }
}
