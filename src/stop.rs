//! Stop requests: a signal sets a flag, which the loop of a run checks after each step. Before the first step, a signal ends
//! the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use admiral_comm::ExitCode;
use admiral_contract::signals::is_ignored;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The time that a command without a final save has to end together on all ranks.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The flag that asks a run to stop. Clones share the flag. Tests can set it as a signal does.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    /// Whether the loop runs and checks the flag.
    is_checked: Arc<AtomicBool>,
}

/// What a command says and does when it is asked to stop.
#[derive(Debug, Clone, Copy)]
pub struct StopMessages {
    /// The first time.
    pub asked: &'static str,
    /// Before the first step.
    pub too_early: &'static str,
    /// When SIGINT arrives a second time.
    pub impatient: &'static str,
    /// Whether the command saves its state before it ends, however long that takes. If not, the process exits 1.5 s after the
    /// signal, even if it is still waiting for a store, a file system or a large batch.
    pub saves: bool,
}

impl Stop {
    /// Asks the run to stop after the current step.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Returns whether the run was asked to stop.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Says that the loop runs from now on, so that a signal no longer ends the process.
    pub fn steps_begin(&self) {
        self.is_checked.store(true, Ordering::Relaxed);
    }

    /// Starts a thread that sets the flag when SIGINT, SIGTERM or SIGUSR1 arrives. Signals that this process was told to
    /// ignore stay ignored.
    ///
    /// Before [`steps_begin`](Self::steps_begin), a signal ends the process: there is nothing to save yet, and the start may
    /// wait long for a store or a file system.
    ///
    /// A second SIGINT ends the process at once, for an impatient user. SIGTERM and SIGUSR1 do not: launchers and
    /// schedulers send them to the launcher and to the ranks, so they can arrive more than once for one request.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed or the thread cannot be started.
    pub fn on_signals(&self, messages: StopMessages) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let stop = self.clone();
        let guard = runtime.enter();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::user_defined1()];
        // All are checked before the first handler is installed.
        let ignored = kinds.map(|kind| is_ignored(kind.as_raw_value()));
        let listen = |place: usize| if ignored[place] { Ok(None) } else { signal(kinds[place]).map(Some) };
        let (mut interrupt, mut terminate, mut user) = (listen(0)?, listen(1)?, listen(2)?);
        drop(guard);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                let mut interrupts = 0;
                loop {
                    tokio::select! {
                        () = arrival(&mut interrupt) => interrupts += 1,
                        () = arrival(&mut terminate) => {}
                        () = arrival(&mut user) => {}
                    }
                    if interrupts > 1 {
                        tracing::error!("{}", messages.impatient);
                        leave();
                    }
                    if !stop.is_checked.load(Ordering::Relaxed) {
                        tracing::warn!("{}", messages.too_early);
                        leave();
                    }
                    let is_first = !stop.is_asked();
                    // Before the message, which may take time.
                    stop.ask();
                    if is_first && !messages.saves {
                        leave_after(PATIENCE);
                    }
                    if is_first {
                        tracing::warn!("{}", messages.asked);
                    }
                }
            });
        })?;
        Ok(())
    }
}

/// Ends the process after a time, from a thread of its own.
fn leave_after(patience: Duration) {
    let wait = move || {
        std::thread::sleep(patience);
        tracing::warn!("still busy after {} s: leaving at once; what is finished is kept", patience.as_secs_f64());
        leave();
    };
    // Without a thread, the loop ends the process when it can.
    if let Err(error) = std::thread::Builder::new().name("leave".into()).spawn(wait) {
        tracing::warn!("the system provides no thread: {error}");
    }
}

/// Ends the process with the exit code of a run that was asked to stop.
fn leave() -> ! {
    // SAFETY: no precondition. The exit handlers of libraries are left out: the main thread may be in the middle of setting
    // these libraries up, or of a call that does not return.
    unsafe { libc::_exit(i32::from(ExitCode::Preempted as u8)) }
}

/// Waits for a signal, or for ever if it is ignored.
async fn arrival(signals: &mut Option<Signal>) {
    match signals {
        Some(signals) => _ = signals.recv().await,
        None => std::future::pending().await,
    }
}
