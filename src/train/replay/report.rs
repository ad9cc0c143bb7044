//! What a replay found.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::train::black_box::{Capsule, Number, Reason};

use super::finding::Finding;

/// The number of differences that are listed.
const MAX_LISTED: usize = 5;

/// Differences of gradient norms and losses up to this part of the value are those of another order of sums.
pub(super) const TOLERANCE: f64 = 1e-3;

/// A value of the capsule and of the replay that differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The parameter of a gradient, or the sample of a loss.
    pub name: String,
    /// The value in the capsule.
    pub recorded: Number,
    /// The value in the replay.
    pub replayed: Number,
}

/// The values of the capsule beside those of the replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The number of values compared.
    pub num: usize,
    /// Those that differ by more than another order of sums explains, largest difference first.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Compares values by their names.
    pub(super) fn of(values: impl Iterator<Item = (String, f64, f64)>) -> Self {
        let mut num = 0;
        let mut found = Vec::new();
        for (name, recorded, replayed) in values {
            num += 1;
            let difference = match (recorded.is_finite(), replayed.is_finite()) {
                (true, true) => (recorded - replayed).abs() / recorded.abs().max(replayed.abs()).max(1e-30),
                (false, false) => 0.0,
                _ => f64::INFINITY,
            };
            if difference > TOLERANCE {
                let (recorded, replayed) = (Number(recorded), Number(replayed));
                found.push((difference, Difference { name, recorded, replayed }));
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        Self { num, differences: found.into_iter().map(|(_, difference)| difference).collect() }
    }
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayReport {
    /// The step that was replayed with checks, from 0.
    pub step: u64,
    /// The step of the capsule.
    pub capsule_step: u64,
    /// The step of the checkpoint from which the replay started; null for the initial values.
    pub checkpoint: Option<u64>,
    /// The number of ranks whose work was done.
    pub world: u64,
    /// The device.
    pub device: String,
    /// Whether what the capsule records came again; null for another step than that of the capsule.
    pub came_again: Option<bool>,
    /// The parameters that were not finite before the step.
    pub bad_parameters: Vec<String>,
    /// The first tensor of the forward passes that is not finite.
    pub forward: Option<Finding>,
    /// The first tensor of the backward passes that is not finite.
    pub backward: Option<Finding>,
    /// For each rank, the parameter with a gradient that is not finite which backward reached first.
    pub bad_gradients: Vec<Option<String>>,
    /// The mean loss.
    pub loss: Number,
    /// The norm of the unscaled gradient.
    pub gradient_norm: Number,
    /// The base-2 logarithm of the loss scale; 0 without loss scaling.
    pub lg_loss_scale: f64,
    /// The norms of the gradients, compared with those of the capsule.
    pub gradients: Option<Comparison>,
    /// The losses of the samples, compared with those of the capsule.
    pub losses: Option<Comparison>,
    /// What the ranks of the capsule saw that was not finite, for people.
    pub recorded: Vec<String>,
    /// The folder of the files below.
    pub folder: PathBuf,
    /// The image, the noise and the timestep of the samples found.
    pub files: Vec<PathBuf>,
}

impl ReplayReport {
    /// Returns what to conclude.
    #[must_use]
    pub fn conclusion(&self, capsule: &Capsule) -> String {
        if self.step < self.capsule_step && self.came_again.is_none() && !self.gradient_norm.0.is_finite() {
            let step = self.step;
            return if self.lg_loss_scale == 0.0 {
                format!(
                    "The gradients of step {step} are not finite in the replay. The run went on after this step, so that \
                     the replay differs from it."
                )
            } else {
                format!("The gradients of step {step} are not finite. With loss scaling, a run skips such a step.")
            };
        }
        let Some(came_again) = self.came_again else {
            return if self.forward.is_some() || self.backward.is_some() {
                "Values of this step are not finite.".into()
            } else {
                "All values of this step are finite.".into()
            };
        };
        let what = match capsule.reason {
            Reason::NotFinite => "gradients that are not finite",
            Reason::LossJump => "the jump of the loss",
        };
        if came_again && !self.bad_parameters.is_empty() {
            return format!(
                "PERSISTENT: {what} came again. Parameters were not finite before the step, so the cause is in the \
                 checkpoint or in a step since."
            );
        }
        if came_again {
            return format!("PERSISTENT: {what} came again. The cause is in the samples, the parameters or the code.");
        }
        let suspects: Vec<String> = (capsule.ranks.iter().enumerate())
            .filter(|(_, rank)| !rank.bad_parameters.is_empty() || rank.bad_gradient.is_some())
            .map(|(number, rank)| format!("rank {number} on {}", rank.host))
            .collect();
        let suspect = match (capsule.reason, suspects.as_slice()) {
            (Reason::NotFinite, [only]) => format!("The memory or the processor of {only} is suspected."),
            _ => "The hardware or the order of sums is suspected.".to_owned(),
        };
        format!("TRANSIENT: {what} did not come again. {suspect}")
    }
}

/// A report with the capsule it belongs to, as text.
pub struct ReportText<'a>(pub &'a ReplayReport, pub &'a Capsule);

impl fmt::Display for ReportText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report, capsule) = self;
        writeln!(f, "{}", report.conclusion(capsule))?;
        writeln!(f)?;
        let start = report.checkpoint.map_or_else(|| "the initial values".into(), |step| format!("checkpoint {step}"));
        writeln!(
            f,
            "step {} of {} ranks, from {start}, on {}; loss {}, gradient norm {}",
            report.step, report.world, report.device, report.loss, report.gradient_norm
        )?;
        if !report.bad_parameters.is_empty() {
            writeln!(f, "not finite before the step: {}", report.bad_parameters.join(", "))?;
        }
        for (direction, finding) in [("forward", &report.forward), ("backward", &report.backward)] {
            match finding {
                Some(finding) => writeln!(f, "{direction}: {finding}")?,
                None => writeln!(f, "{direction}: all tensors are finite")?,
            }
        }
        for (rank, gradient) in report.bad_gradients.iter().enumerate() {
            if let Some(name) = gradient {
                writeln!(f, "rank {rank}: the gradient of {name} is not finite")?;
            }
        }
        for line in &report.recorded {
            writeln!(f, "the run saw: {line}")?;
        }
        let compared = [("gradient norms", &report.gradients), ("losses", &report.losses)];
        for (what, comparison) in compared.iter().filter_map(|(what, found)| Some((what, found.as_ref()?))) {
            let Comparison { num, differences } = comparison;
            writeln!(f, "{} of {num} {what} differ from the capsule", differences.len())?;
            for Difference { name, recorded, replayed } in differences.iter().take(MAX_LISTED) {
                writeln!(f, "    {name}: {recorded} in the capsule, {replayed} now")?;
            }
        }
        for file in &report.files {
            writeln!(f, "wrote {}", file.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_differ_are_listed_with_the_largest_difference_first() {
        let value = |name: &str, recorded, replayed| (name.to_owned(), recorded, replayed);
        let compared = Comparison::of(
            [
                value("same", 1.0, 1.0000001),
                value("double", 1.0, 2.0),
                value("both", f64::NAN, f64::INFINITY),
                value("one", f64::NAN, 3.0),
                value("zero", 0.0, 0.0),
            ]
            .into_iter(),
        );
        let names: Vec<&str> = compared.differences.iter().map(|difference| difference.name.as_str()).collect();
        assert_eq!((compared.num, names), (5, vec!["one", "double"]));
    }
}
