//! The plan of a configuration for commands that give advice.

use admiral_advice::limits::MEMORY_SHARE;
use admiral_advice::{Planned, largest_microbatch};
use admiral_config::Invalid;
use admiral_plan::{Hardware, Report, Request, Speed, plan};

use crate::run_config::{RunConfig, plan_request};

use super::hardware::Target;

/// The assumed size of an image file in bytes. No advice depends on it.
const IMAGE_BYTES: u64 = 110_000;

/// Returns the request for a plan of a run.
///
/// # Errors
/// When the batch cannot be divided, or the configuration makes no valid network, with the mistakes.
pub(super) fn request(config: &RunConfig, target: &Target) -> Result<Request, String> {
    let joined =
        |mistakes: Vec<Invalid>| mistakes.into_iter().map(|mistake| mistake.message).collect::<Vec<_>>().join("; ");
    plan_request("", config, target.hardware.kind, target.ranks, IMAGE_BYTES).map_err(joined)
}

/// Plans a run on `hardware`. On a CPU, whose speed is unknown, the plan has no times.
///
/// # Errors
/// When there is no plan.
pub(super) fn report(request: &Request, hardware: &Hardware) -> Result<Report, String> {
    let speed = if hardware.mfu.is_finite() { Speed::Mfu(hardware.mfu) } else { Speed::Unknown };
    plan(request, hardware, speed).map_err(|error| error.to_string())
}

/// Returns the hardware with the part of its memory that a proposal fills.
pub(super) fn comfortable(hardware: &Hardware) -> Hardware {
    let memory_bytes = hardware.memory_bytes.map(|bytes| (bytes as f64 * MEMORY_SHARE) as u64);
    Hardware { memory_bytes, ..*hardware }
}

/// Plans a run for the check of its configuration.
pub(super) fn planned(config: &RunConfig, target: &Target) -> Planned {
    let request = request(config, target);
    let on =
        |hardware: &Hardware| -> Result<Report, String> { report(request.as_ref().map_err(String::clone)?, hardware) };
    let comfortable = on(&comfortable(&target.hardware)).ok();
    Planned {
        ranks: target.ranks,
        report: on(&target.hardware).map(Box::new),
        comfortable_microbatch: comfortable.and_then(|report| largest_microbatch(&report, config.model.use_checkpoint)),
    }
}
