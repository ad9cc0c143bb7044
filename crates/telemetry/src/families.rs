//! The names that metrics of a run have for Prometheus.

use std::borrow::Cow;

use admiral_exposition::{Family, Kind, Unit, metric_name};

use super::metrics::{Metric, MetricKind};

/// The metrics that have another name or a help of their own. Others follow from the rule in [`other`].
const TABLE: [(&str, Family); 22] = [
    ("loss", Family::gauge("admiral_loss", "Mean loss since the last log step.")),
    ("mse", Family::gauge("admiral_mse", "Mean squared error of the predicted noise since the last log step.")),
    ("vb", Family::gauge("admiral_variational_bound", "Mean term of the variational bound since the last log step.")),
    ("grad_norm", Family::gauge("admiral_gradient_norm", "Mean norm of the gradient since the last log step.")),
    ("param_norm", Family::gauge("admiral_parameter_norm", "Mean norm of the parameters since the last log step.")),
    ("learning_rate", Family::gauge("admiral_learning_rate", "Learning rate of the last step.")),
    ("lg_loss_scale", Family::gauge("admiral_loss_scale_log2", "Base-2 logarithm of the loss scale; 0 without one.")),
    ("samples", Family::counter("admiral_samples", "Training samples since the run began, over all ranks.")),
    ("images_per_second", Family::gauge("admiral_images_per_second", "Training images per second, over all ranks.")),
    ("step_seconds", Family::gauge_in("admiral_step", Unit::Seconds, "Mean time of a step, over steps and ranks.")),
    (
        "data_wait_seconds",
        Family::gauge_in("admiral_data_wait", Unit::Seconds, "Mean time that a step waits for images."),
    ),
    (
        "all_reduce_seconds",
        Family::gauge_in("admiral_all_reduce", Unit::Seconds, "Mean time of the sums of gradients in a step."),
    ),
    (
        "all_reduce_exposed_seconds",
        Family::gauge_in(
            "admiral_all_reduce_exposed",
            Unit::Seconds,
            "Mean part of that time that computing waits for.",
        ),
    ),
    (
        "skipped_steps",
        Family::gauge_in("admiral_skipped_steps", Unit::Ratio, "Share of steps whose gradient overflowed."),
    ),
    (
        "skipped_images",
        Family::gauge("admiral_skipped_images", "Mean number of broken images that a step of a rank replaces."),
    ),
    ("broken_images", Family::counter("admiral_broken_images", "Broken images found, over all ranks.")),
    (
        "checkpoint/seconds",
        Family::gauge_in("admiral_checkpoint_duration", Unit::Seconds, "Time in which the last checkpoint was stored."),
    ),
    (
        "checkpoint/stall_seconds",
        Family::gauge_in("admiral_checkpoint_stall", Unit::Seconds, "Time that training waited for the last save."),
    ),
    ("checkpoint/bytes", Family::gauge_in("admiral_checkpoint_size", Unit::Bytes, "Size of the last checkpoint.")),
    ("checkpoint/failures", Family::counter("admiral_checkpoint_failures", "Saves that failed in this attempt.")),
    (
        "checkpoint/skipped",
        Family::counter("admiral_checkpoint_skipped", "Saves left out in this attempt, because one was in progress."),
    ),
    ("bpd", Family::gauge("admiral_bits_per_dimension", "Bits per dimension.")),
];

/// The metrics of one rank.
const OF_RANKS: [(&str, Family); 3] = [
    ("step_seconds", Family::gauge_in("admiral_rank_step", Unit::Seconds, "Mean time of a step on a rank.")),
    (
        "data_wait_seconds",
        Family::gauge_in("admiral_rank_data_wait", Unit::Seconds, "Mean time that a step of a rank waits for images."),
    ),
    (
        "exchange_seconds",
        Family::gauge_in(
            "admiral_rank_exchange",
            Unit::Seconds,
            "Mean time of a step that a rank exchanges with others, most of which is waiting for them.",
        ),
    ),
];

/// A family and the labels that tell its values apart.
pub(crate) type Named = (Family, Vec<(&'static str, String)>);

/// Returns the family of a metric of the run and its labels. Returns `None` for the minimum, median and maximum over the
/// ranks, because every rank has a value of its own.
pub(crate) fn of_run(metric: &Metric<'_>) -> Option<Named> {
    let name = metric.name;
    if name.starts_with("ranks/") {
        return None;
    }
    if let Some(name) = name.strip_prefix("val_") {
        let (family, labels) = of_run(&Metric { name, ..*metric })?;
        let base = family.base.strip_prefix("admiral_").unwrap_or(&family.base);
        let base = Cow::Owned(format!("admiral_validation_{base}"));
        let help = Cow::Owned(format!("{} Measured on the validation images.", family.help));
        return Some((Family { base, help, ..family }, labels));
    }
    if let Some((name, quartile)) = name.rsplit_once("_q").filter(|(_, end)| matches!(*end, "0" | "1" | "2" | "3")) {
        let (family, mut labels) = of_run(&Metric { name, ..*metric })?;
        let base = Cow::Owned(format!("{}_by_timestep", family.base));
        let help = Cow::Owned(format!("{} By quarter of the timesteps.", family.help));
        labels.push(("quarter", quartile.to_owned()));
        return Some((Family { base, help, ..family }, labels));
    }
    if let Some(top) = name.strip_prefix("acc@") {
        let help = "Share of images whose class is among the most likely ones.";
        return Some((Family::gauge_in("admiral_accuracy", Unit::Ratio, help), vec![("top", top.to_owned())]));
    }
    if let Some((weights, name)) = name.strip_prefix("evaluation/").and_then(|rest| rest.rsplit_once('/')) {
        let family = Family::gauge("admiral_evaluation", "Metric of drawn samples, by weights and name of the metric.");
        return Some((family, vec![("weights", weights.to_owned()), ("metric", name.to_owned())]));
    }
    match TABLE.into_iter().find(|(known, _)| *known == name) {
        Some((_, family)) => Some((family, Vec::new())),
        None => Some(other(metric)),
    }
}

/// Returns the family of a metric of one rank.
pub(crate) fn of_rank(metric: &Metric<'_>) -> Option<Family> {
    OF_RANKS.into_iter().find(|(known, _)| *known == metric.name).map(|(_, family)| family)
}

/// Returns the family of a metric that is in no table: its name with the prefix `admiral_`, the unit by its kind. What
/// follows a slash is the label `name`, so that many metrics of one sort are one family.
fn other(metric: &Metric<'_>) -> Named {
    let (name, label) = match metric.name.split_once('/') {
        Some((name, label)) => (name, Some(label)),
        None => (metric.name, None),
    };
    let (kind, unit, end) = match metric.kind {
        MetricKind::Gauge => (Kind::Gauge, None, ""),
        MetricKind::Counter => (Kind::Counter, None, "_total"),
        MetricKind::Seconds => (Kind::Gauge, Some(Unit::Seconds), "_seconds"),
    };
    let name = metric_name(name.strip_suffix(end).unwrap_or(name));
    let help = Cow::Owned(format!("The metric {} of the run.", metric.name.split('/').next().unwrap_or_default()));
    let family = Family { base: Cow::Owned(format!("admiral_{name}")), help, unit, kind };
    (family, label.map(|label| ("name", label.to_owned())).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name and labels of a metric of this name and kind.
    fn named(name: &str, kind: MetricKind) -> Option<String> {
        let (family, labels) = of_run(&Metric { name, step: 0, value: 0.0, kind })?;
        Some(format!("{} {}", family.sample_name(), labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<String>()))
    }

    #[test]
    fn metrics_have_names_by_the_conventions() {
        use MetricKind::{Counter, Gauge, Seconds};
        for (name, kind, expected) in [
            ("samples", Counter, "admiral_samples_total "),
            ("loss_q2", Gauge, "admiral_loss_by_timestep quarter=2"),
            ("val_acc@5", Gauge, "admiral_validation_accuracy_ratio top=5"),
            ("val_loss_q0", Gauge, "admiral_validation_loss_by_timestep quarter=0"),
            ("data_wait_seconds", Gauge, "admiral_data_wait_seconds "),
            ("checkpoint/bytes", Gauge, "admiral_checkpoint_size_bytes "),
            ("evaluation/ema_0.9999/FID", Gauge, "admiral_evaluation weights=ema_0.9999metric=FID"),
            ("overflows/out.2.weight", Counter, "admiral_overflows_total name=out.2.weight"),
            ("load seconds_seconds", Seconds, "admiral_load_seconds_seconds "),
            ("new_q4", Gauge, "admiral_new_q4 "),
        ] {
            assert_eq!(named(name, kind).as_deref(), Some(expected));
        }
        assert_eq!(named("ranks/step_seconds/min", Seconds), None);
    }

    #[test]
    fn no_two_metrics_have_one_name() {
        let all = TABLE.into_iter().chain(OF_RANKS);
        let mut names: Vec<String> = all.map(|(_, family)| family.name()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), TABLE.len() + OF_RANKS.len());
    }
}
