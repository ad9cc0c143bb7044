//! The run's requirements for its hosts, and the hosts' answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::doctor::exchange::Clock;
use crate::doctor::probe::{Interface, Probe};
use crate::hosts::Host;
use crate::job::JobKind;

/// The run's requirements for its hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// What the ranks do.
    pub kind: JobKind,
    /// Whether the run uses GPUs if there are any.
    pub uses_gpus: bool,
    /// Whether the run needs GPUs.
    pub requires_gpus: bool,
    /// The size of a checkpoint in bytes.
    pub checkpoint_bytes: Option<u64>,
    /// The largest number of checkpoints that are stored at the same time.
    pub kept_checkpoints: u64,
    /// The launcher's variables that affect a rank, from [`selected`](crate::doctor::probe::selected).
    pub environment: BTreeMap<String, String>,
    /// The launcher's own interfaces, which Open MPI's daemons have to reach.
    pub interfaces: Vec<Interface>,
    /// Whether the user has chosen interfaces for Open MPI.
    pub has_chosen_interfaces: bool,
    /// The names of the question's files.
    pub files: Vec<String>,
}

/// The answer of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The host.
    pub host: Host,
    /// Its probe's report.
    pub probe: Probe,
    /// Its clock.
    pub clock: Clock,
    /// The address from which it reached the launcher; `None` on the launcher's own host.
    pub peer: Option<IpAddr>,
}

impl Answer {
    /// Returns the number of ranks on the host: its slots, or one per GPU if no number was given.
    #[must_use]
    pub fn ranks(&self, needs: &Needs) -> usize {
        match usable_gpus(&self.probe) {
            Some(gpus) if needs.uses_gpus && gpus > 0 && !self.host.slots_given => gpus,
            _ => self.host.slots,
        }
    }
}

/// Returns the number of GPUs that a process on the host sees; `None` if it is not known.
pub(super) fn usable_gpus(probe: &Probe) -> Option<usize> {
    let there = match &probe.gpus {
        None => 0,
        Some(Ok(state)) => state.gpus.len(),
        Some(Err(_)) => return None,
    };
    Some(probe.environment.get("CUDA_VISIBLE_DEVICES").map_or(there, |list| there.min(visible(list))))
}

/// CUDA stops at the first invalid entry, such as -1.
fn visible(list: &str) -> usize {
    let means_something = |entry: &&str| !entry.trim().is_empty() && !entry.trim().starts_with('-');
    list.split(',').take_while(means_something).count()
}
