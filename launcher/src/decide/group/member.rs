//! A rank as a member of its group.

use admiral_contract::Reading;

use crate::decide::end::End;

/// A rank as a member of its group.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) host: String,
    pub(super) gpu: Option<usize>,
    /// Its agent has connected.
    pub(super) connected: bool,
    /// The connection to its agent was lost.
    pub(super) disconnected: bool,
    pub(super) ended: Option<End>,
    pub(super) confirmed_gone: bool,
    pub(super) last_heard: f64,
    pub(super) reading: Option<Reading>,
    /// The time at which its agent connected, until the rank sends a ledger: `reading` is a default until then.
    pub(super) no_ledger_since: Option<f64>,
    pub(super) state: Option<char>,
}

impl Member {
    /// Creates a member whose agent has not connected.
    pub(super) fn new(host: String, gpu: Option<usize>, now: f64) -> Self {
        Self {
            host,
            gpu,
            connected: false,
            disconnected: false,
            ended: None,
            confirmed_gone: false,
            last_heard: now,
            reading: None,
            no_ledger_since: None,
            state: None,
        }
    }
}
