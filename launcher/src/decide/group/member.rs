//! A place in a group.

use admiral_contract::Reading;

use crate::decide::end::End;

/// A place in the group.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) host: String,
    pub(super) gpu: Option<usize>,
    /// Its agent said hello.
    pub(super) connected: bool,
    /// And is out of reach by now.
    pub(super) disconnected: bool,
    pub(super) ended: Option<End>,
    pub(super) confirmed_gone: bool,
    pub(super) last_heard: f64,
    pub(super) reading: Option<Reading>,
    /// The reading is of the agent's making: the rank has not been heard.
    pub(super) no_ledger_since: Option<f64>,
    pub(super) state: Option<char>,
}
