//! Chooses the width of the network.

use admiral_plan::Report;

use crate::limits::MAX_PARAMETERS_PER_IMAGE;

/// A width of a column's network, with what the caller counted and planned for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The base number of channels.
    pub num_channels: u64,
    /// The number of parameters.
    pub parameters: u64,
    /// The largest microbatch that the memory takes; `None` if the memory is unknown.
    pub microbatch: Option<u64>,
    /// The same with `model.use_checkpoint`.
    pub microbatch_recomputing: Option<u64>,
}

/// The chosen width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenNetwork {
    /// The index of the candidate.
    pub index: usize,
    /// Whether a single image only fits if activations are recomputed.
    pub recomputes: bool,
    /// The largest microbatch; `None` if the memory is unknown.
    pub microbatch: Option<u64>,
    /// The reason for the width.
    pub reason: String,
}

/// The error if no candidate fits into the memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no network for this size fits into the GPU's memory, even with one image a pass; choose a smaller --size")]
pub struct NoNetwork;

/// Chooses the widest of `candidates`, which are ordered from the widest, that fits into the memory and has at most
/// [`MAX_PARAMETERS_PER_IMAGE`] parameters for each of `images`. If all have more, it chooses the narrowest that fits.
///
/// # Errors
/// If none fits into the memory.
pub fn choose_network(candidates: &[Candidate], images: u64) -> Result<ChosenNetwork, NoNetwork> {
    let fits = |candidate: &Candidate| {
        let at_least_one = |microbatch: Option<u64>| microbatch.is_none_or(|microbatch| microbatch > 0);
        at_least_one(candidate.microbatch) || at_least_one(candidate.microbatch_recomputing)
    };
    let most = images.saturating_mul(MAX_PARAMETERS_PER_IMAGE);
    let fitting: Vec<(usize, &Candidate)> = candidates.iter().enumerate().filter(|(_, each)| fits(each)).collect();
    let chosen = fitting.iter().find(|(_, candidate)| candidate.parameters <= most).or(fitting.last());
    let &(index, candidate) = chosen.ok_or(NoNetwork)?;
    let per_image = candidate.parameters / images.max(1);
    let reason = match index {
        _ if candidate.parameters > most => {
            format!("the narrowest, with {per_image} parameters an image: these images are too few")
        }
        0 => format!("the full width; {per_image} parameters an image"),
        _ if candidates[0].parameters > most => format!("narrower for few images; {per_image} parameters an image"),
        _ => "narrower, because the full width does not fit into the memory".into(),
    };
    let recomputes = candidate.microbatch == Some(0);
    let microbatch = if recomputes { candidate.microbatch_recomputing } else { candidate.microbatch };
    Ok(ChosenNetwork { index, recomputes, microbatch, reason })
}

/// Returns the largest microbatch of a plan with or without recomputing; `None` if the memory is unknown.
#[must_use]
pub fn largest_microbatch(report: &Report, recomputes: bool) -> Option<u64> {
    let is_asked = |norms, checkpointing| norms == report.norms && checkpointing == recomputes;
    let variant = report.variants.iter().find(|variant| is_asked(variant.norms, variant.checkpointing))?;
    variant.largest_microbatch
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn candidate(num_channels: u64, parameters: u64, microbatch: u64, microbatch_recomputing: u64) -> Candidate {
        Candidate {
            num_channels,
            parameters,
            microbatch: Some(microbatch),
            microbatch_recomputing: Some(microbatch_recomputing),
        }
    }

    #[test]
    fn the_width_follows_the_number_of_images() {
        let widths = [candidate(192, 300_000_000, 90, 200), candidate(64, 30_000_000, 300, 600)];
        let chosen = |images| choose_network(&widths, images).unwrap();
        assert_eq!((chosen(30_000).index, chosen(30_000).microbatch), (0, Some(90)));
        assert_eq!(chosen(29_999).index, 1);
        assert!(chosen(29_999).reason.contains("narrower for few images; 1000 "), "{}", chosen(29_999).reason);
        assert!(chosen(100).reason.starts_with("the narrowest"), "{}", chosen(100).reason);
    }

    #[test]
    fn the_memory_comes_first() {
        let recomputing = choose_network(&[candidate(256, 1, 0, 3)], 1_000_000).unwrap();
        assert_eq!((recomputing.recomputes, recomputing.microbatch), (true, Some(3)));
        let narrower = choose_network(&[candidate(256, 1, 0, 0), candidate(128, 1, 2, 4)], 1_000_000).unwrap();
        assert_eq!((narrower.index, narrower.recomputes), (1, false));
        assert!(narrower.reason.contains("memory"), "{}", narrower.reason);
        assert_eq!(choose_network(&[candidate(256, 1, 0, 0)], 1_000_000), Err(NoNetwork));
        let unknown = Candidate { microbatch: None, microbatch_recomputing: None, ..candidate(32, 1, 0, 0) };
        assert_eq!(choose_network(&[unknown], 10).unwrap().microbatch, None);
    }
}
