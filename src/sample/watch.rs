//! Where the time of sampling goes.

use std::fmt::Debug;

/// A part of sampling. The rest is the arithmetic of the solver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// An evaluation of the network.
    Network,
    /// An evaluation of what guides it: a classifier with its gradient, or a second network.
    Guidance,
    /// Noise, drawn on the host and copied to the device.
    Noise,
    /// The conversion of images to bytes on the host.
    Bytes,
}

/// Sees each part of sampling begin and end. Parts do not overlap.
pub trait Watch: Debug {
    /// A part begins.
    fn begin(&self, part: Part);
    /// The part that began last ends. A GPU may still work on it.
    fn end(&self, part: Part);
}

/// A watch that does nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn begin(&self, _: Part) {}
    fn end(&self, _: Part) {}
}

/// Does `work`, seen by `watch`.
pub(super) fn watched<T>(watch: &dyn Watch, part: Part, work: impl FnOnce() -> T) -> T {
    watch.begin(part);
    let result = work();
    watch.end(part);
    result
}
