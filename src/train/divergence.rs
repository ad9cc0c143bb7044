//! The error of a run that diverged.

use admiral_comm::Collective;

use super::error::TrainError;
use super::sample_terms::SampleTerms;

/// The values of a rank that are not finite in a diverged run: the parameter whose gradient was the first that is not
/// finite, and the index and timestep of the first sample whose loss is not finite.
type NotFinite = (Option<String>, Option<(u64, i64)>);

/// Returns the error of a run that diverged in `step`, with the first parameter and sample of any rank that are not finite.
/// `bad_gradient` and `samples` are those of this rank. Every rank calls it, because all ranks see the same sums of
/// gradients, and gets the same error.
pub(super) fn divergence_of(
    step: u64,
    lg_loss_scale: f64,
    bad_gradient: Option<String>,
    samples: &SampleTerms,
    collective: &dyn Collective,
) -> TrainError {
    let bad_loss = samples.term("loss").iter().position(|loss| !loss.is_finite());
    let own: NotFinite = (bad_gradient, bad_loss.map(|i| (samples.indices[i], samples.timesteps[i])));
    let found = serde_json::to_vec(&own).unwrap_or_default();
    let found = match collective.all_gather(&found) {
        Ok(found) => found,
        Err(error) => return error.into(),
    };
    let found: Vec<NotFinite> = found.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect();
    TrainError::Diverged {
        step,
        lg_loss_scale,
        parameter: found.iter().find_map(|(parameter, _)| parameter.clone()),
        sample: found.iter().find_map(|(_, sample)| *sample),
    }
}
