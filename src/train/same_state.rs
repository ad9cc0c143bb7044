//! Compares the state of the ranks.
//!
//! All ranks apply the same sums to the same state, so their parameters, moments and averages are equal to the bit. A rank
//! that differs has a fault of its memory or computed wrongly. The sums of gradients carry its values to all ranks, so the
//! run must not go on.

use std::time::{Duration, Instant};

use admiral_comm::{Collective, CollectiveError};
use admiral_contract::host::host_name;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::context::RunContext;
use crate::ops::{self, Kernels};
use crate::run_config::TrainingConfig;

use super::difference::Difference;
use super::error::TrainError;
use super::flat::FlatMemory;

/// The hashes of a rank's flat buffers, and its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RankHashes {
    host: String,
    hashes: Vec<u64>,
}

/// Returns whether the ranks compare their states: the configuration says so, and all ranks update their parameters with the
/// same kernels. Others round differently. Every rank calls it.
///
/// # Errors
/// When the ranks cannot reach each other.
pub(super) fn can_compare(training: &TrainingConfig, context: &RunContext<'_>) -> Result<bool, CollectiveError> {
    let collective = context.collective;
    if training.check_interval == 0 || collective.world_size() == 1 {
        return Ok(false);
    }
    let kind = if context.device.is_cuda() { "a GPU" } else { "the CPU" };
    let own = format!("{} on {kind}", context.kernels.choice());
    let all = collective.all_gather(own.as_bytes())?;
    let Some(other) = all.iter().position(|other| *other != all[0]) else { return Ok(true) };
    if collective.rank() == 0 {
        tracing::warn!(
            "the states of the ranks are not compared, because kernels for different processors round differently: rank 0 \
             has {own}, rank {other} {}",
            String::from_utf8_lossy(&all[other])
        );
    }
    Ok(false)
}

/// Compares the states of all ranks. Returns the time that the hashes took. Every rank calls it, after `step`.
///
/// # Errors
/// [`TrainError::Corrupted`] on every rank, if the states differ. When the ranks cannot reach each other, or libtorch or a
/// kernel fails.
pub(super) fn check_same_state(
    memory: &FlatMemory,
    kernels: &Kernels,
    collective: &dyn Collective,
    step: u64,
) -> Result<Duration, TrainError> {
    let bug = |error: serde_json::Error| TrainError::Bug(error.to_string());
    let started = Instant::now();
    let buffers = memory.shared_buffers();
    let hashes = ops::hashes(kernels, &buffers.iter().map(|buffer| buffer.tensor).collect::<Vec<_>>())?;
    let duration = started.elapsed();
    let own = RankHashes { host: host_name(), hashes };
    let all = collective.all_gather(&serde_json::to_vec(&own).map_err(bug)?)?;
    let all: Vec<RankHashes> =
        all.iter().map(|bytes| serde_json::from_slice(bytes)).collect::<Result<_, _>>().map_err(bug)?;
    let hashes: Vec<&[u64]> = all.iter().map(|rank| rank.hashes.as_slice()).collect();
    let Some(first) = first_difference(&hashes) else { return Ok(duration) };
    let buffer = &buffers[first];
    // All ranks see the same hashes, so all of them come here.
    let views: Vec<Tensor> = buffer.padded_ranges().collect();
    let own = ops::hashes(kernels, &views.iter().collect::<Vec<_>>())?;
    let of_params = collective.all_gather(&serde_json::to_vec(&own).map_err(bug)?)?;
    let of_params: Vec<Vec<u64>> =
        of_params.iter().map(|bytes| serde_json::from_slice(bytes)).collect::<Result<_, _>>().map_err(bug)?;
    let param = first_difference(&of_params.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let parameter = param.map(|param| memory.specs().as_slice()[buffer.layout.ranges[param].param].name.clone());
    let majority = majority(&hashes);
    let differs = |rank: &usize| majority.is_none_or(|majority| hashes[*rank] != majority);
    Err(TrainError::Corrupted(Difference {
        step,
        ranks: (0..all.len()).filter(differs).map(|rank| (rank, all[rank].host.clone())).collect(),
        has_majority: majority.is_some(),
        is_at_fault: majority.is_some() && differs(&collective.rank()),
        world_size: all.len(),
        buffer: buffer.name.clone(),
        parameter,
    }))
}

/// Returns the first place at which the ranks' hashes are not all equal.
fn first_difference(ranks: &[&[u64]]) -> Option<usize> {
    let (first, others) = ranks.split_first()?;
    (0..first.len()).find(|&place| others.iter().any(|other| other.get(place) != first.get(place)))
}

/// Returns the hashes that more than half of the ranks have.
fn majority<'a>(ranks: &[&'a [u64]]) -> Option<&'a [u64]> {
    ranks.iter().copied().find(|&own| 2 * ranks.iter().filter(|&&other| other == own).count() > ranks.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_comm::Single;
    use tch::{Device, Kind};

    use crate::model::{Init, ParamSpec, ParamSpecs};

    use super::*;

    #[test]
    fn a_majority_is_more_than_half() {
        let (a, b, c): (&[u64], &[u64], &[u64]) = (&[1, 2], &[1, 3], &[4, 2]);
        assert_eq!(majority(&[a, b, a]), Some(a));
        assert_eq!(majority(&[b, a, c]), None);
        assert_eq!(majority(&[a, b]), None);
        assert_eq!(majority(&[b, a, b, a]), None);
        assert_eq!(majority(&[b, a, b, c, b]), Some(b));
        assert_eq!(
            (first_difference(&[a, a]), first_difference(&[a, a, b]), first_difference(&[b, c])),
            (None, Some(1), Some(0))
        );
    }

    fn memory(kind: Kind) -> FlatMemory {
        let mut specs = ParamSpecs::default();
        for (name, shape, torso) in [("a", vec![3, 2], false), ("b", vec![5], true), ("c", vec![17], true)] {
            specs.add(ParamSpec { name: name.into(), shape, torso, init: Init::Zeros });
        }
        FlatMemory::allocate(specs, kind, 2, Device::Cpu).unwrap()
    }

    /// Returns what this rank compares: the hashes of its buffers.
    fn hashes(memory: &FlatMemory) -> Vec<u64> {
        let buffers = memory.shared_buffers();
        ops::hashes(&Kernels::cpu(), &buffers.iter().map(|buffer| buffer.tensor).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn each_buffer_is_compared() {
        for (kind, num) in [(Kind::Float, 5), (Kind::BFloat16, 11)] {
            let memory = memory(kind);
            let before = hashes(&memory);
            assert_eq!(before.len(), num, "{kind:?}");
            for place in 0..num {
                let _ = memory.shared_buffers()[place].tensor.get(4).fill_(1.0);
                let after = hashes(&memory);
                assert_eq!(first_difference(&[&before, &after]), Some(place), "{kind:?}");
                let _ = memory.shared_buffers()[place].tensor.get(4).fill_(0.0);
            }
            assert!(check_same_state(&memory, &Kernels::cpu(), &Single, 1).is_ok());
        }
    }

    #[test]
    fn a_bit_that_changes_is_seen() {
        for kind in [Kind::Float, Kind::Half] {
            let memory = memory(kind);
            let before = hashes(&memory);
            memory.flip_bit().unwrap();
            assert_ne!(hashes(&memory), before);
        }
    }
}
