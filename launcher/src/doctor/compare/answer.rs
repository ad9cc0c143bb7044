//! What a run needs of its hosts, and what each host answered.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::doctor::exchange::Clock;
use crate::doctor::probe::{Interface, Probe};
use crate::hosts::Host;

/// What the run needs, as far as hosts are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Whether it uses GPUs where there are any.
    pub uses_gpus: bool,
    /// Whether it cannot do without.
    pub requires_gpus: bool,
    /// The size of a checkpoint.
    pub checkpoint_bytes: Option<u64>,
    /// Checkpoints that will lie there at the same time, at most.
    pub kept_checkpoints: u64,
    /// Variables of the launcher that matter to a rank, as [`selected`](crate::doctor::probe::selected) gives them.
    pub environment: BTreeMap<String, String>,
    /// The launcher's own interfaces: Open MPI's daemons have to reach it.
    pub interfaces: Vec<Interface>,
    /// Whether the user has chosen interfaces for Open MPI already.
    pub has_chosen_interfaces: bool,
    /// The question's files, to name them.
    pub files: Vec<String>,
}

/// The answer of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Who.
    pub host: Host,
    /// What it found out.
    pub probe: Probe,
    /// Its clock.
    pub clock: Clock,
    /// The address from which it reached the launcher; None on the launcher's own host.
    pub peer: Option<IpAddr>,
}

impl Answer {
    /// The ranks that it is to take: where nobody said how many, one for each GPU.
    #[must_use]
    pub fn ranks(&self, needs: &Needs) -> usize {
        match usable_gpus(&self.probe) {
            Some(gpus) if needs.uses_gpus && gpus > 0 && !self.host.slots_given => gpus,
            _ => self.host.slots,
        }
    }
}

/// How many GPUs a process there sees; None where that is not known.
pub(super) fn usable_gpus(probe: &Probe) -> Option<usize> {
    let there = match &probe.gpus {
        None => 0,
        Some(Ok(state)) => state.gpus.len(),
        Some(Err(_)) => return None,
    };
    Some(probe.environment.get("CUDA_VISIBLE_DEVICES").map_or(there, |list| there.min(visible(list))))
}

/// CUDA stops at the first entry that means nothing, such as -1.
fn visible(list: &str) -> usize {
    let means_something = |entry: &&str| !entry.trim().is_empty() && !entry.trim().starts_with('-');
    list.split(',').take_while(means_something).count()
}
