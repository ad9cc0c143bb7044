//! A place in a group.

use admiral_contract::Reading;

use crate::decide::end::End;

/// A place in the group.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub(super) host: String,
    pub(super) gpu: Option<usize>,
    /// Its attendant said hello.
    pub(super) here: bool,
    /// And is out of reach by now.
    pub(super) lost: bool,
    pub(super) ended: Option<End>,
    pub(super) gone: bool,
    pub(super) heard: f64,
    pub(super) reading: Option<Reading>,
    /// The reading is of the attendant's making: the rank has not been heard.
    pub(super) unheard_since: Option<f64>,
    pub(super) state: Option<char>,
}
